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


def format_bytes(count: float) -> str:
    """Format a number of bytes: ``68 kB``, ``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if (count >= 10 and unit != "MB") or unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def format_factor(ratio: float, words: str) -> str:
    """Format a share of the dense network's cost as a factor: ``2.7x fewer MACs``; empty for about the same cost."""
    if abs(ratio - 1) < 0.005 or ratio <= 0:
        return ""
    return f"{1 / ratio:.1f}x {words}" if ratio < 1 else f"{ratio:.1f}x {words.replace('fewer', 'more')}"


def format_signed_points(difference: float, name: str = "accuracy") -> str:
    """Format a difference of accuracies, or of scores called `name`: ``-0.9 points``."""
    return f"no {name} lost" if abs(difference) < 0.0005 else f"{100 * difference:+.1f} points"
