"""Short forms in configs: ``50%`` for a share, and ``budget: 0.3`` for a budget of MACs."""

import re
from typing import Any

PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")


def parse_share(value: Any) -> Any:
    """Return the share that a text such as ``50%`` or ``12.5 %`` means; anything else as it is."""
    found = PERCENT.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else float(found[1]) / 100


def expand_budget(value: Any) -> Any:
    """Return a budget that is one share, or a range of shares, as a section with that budget of MACs."""
    several = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [parse_share(item) for item in several]
    if not numbers or any(isinstance(item, bool) or not isinstance(item, int | float) for item in numbers):
        return value
    return {"macs": numbers if isinstance(value, list | tuple) else numbers[0]}
