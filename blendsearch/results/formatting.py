"""Numbers as text."""

from blendsearch.runs.run import Run

COST_NAMES = {"macs": "MACs", "params": "parameters", "memory": "memory", "latency": "latency"}


def format_share(value: float, digits: int = 1) -> str:
    """``86.96 %``; whole per cents without a fraction where there is none to one digit."""
    text = f"{value * 100:.{digits}f}"
    return f"{text.removesuffix('.0')}\N{NO-BREAK SPACE}%"


def format_points(difference: float) -> str:
    """``1.5 points more than`` or ``less than``; ``as much as`` where the difference rounds to nothing."""
    if abs(difference) < 0.00005:
        return "as much as"
    return f"{abs(difference) * 100:.2f} points {'more' if difference > 0 else 'less'} than"


def format_budget(run: Run) -> str:
    """``50 % of MACs``, ``10 % to 50 % of MACs and 60 % of memory``, or that widths were given."""
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
