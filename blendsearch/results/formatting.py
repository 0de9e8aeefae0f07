"""Numbers as text."""

from blendsearch.runs.run import Run

COST_NAMES = {"macs": "MACs", "params": "parameters", "memory": "memory", "latency": "latency"}


def format_share(value: float, digits: int = 1) -> str:
    """Format a share as ``86.96 %``; to one digit, whole percentages have no fraction."""
    text = f"{value * 100:.{digits}f}"
    return f"{text.removesuffix('.0')}\N{NO-BREAK SPACE}%"


def format_points(difference: float) -> str:
    """Format a difference of shares: ``1.50 points more than``, ``less than``, or ``as much as`` for about none."""
    if abs(difference) < 0.00005:
        return "as much as"
    return f"{abs(difference) * 100:.2f} points {'more' if difference > 0 else 'less'} than"


def format_budget(run: Run) -> str:
    """Format a budget: ``50 % of MACs``, or ``10 % to 50 % of MACs and 60 % of memory``."""
    spans = run.config.budget.get_spans()
    if not spans:
        return "widths given beforehand"
    texts = [
        f"{format_share(low)} to {format_share(high)} of {COST_NAMES[name]}"
        if low < high
        else f"{format_share(high)} of {COST_NAMES[name]}"
        for name, (low, high) in spans.items()
    ]
    return " and ".join(texts)
