"""Config defaults of methods that end with one network."""

from typing import Any

ONE_NETWORK_DEFAULTS: dict[str, Any] = {
    "transform": "none",
    "criteria": {"pool": ["l1"]},
    "allocating": {"criterion": "l1"},
    "search": {"evaluations": 1, "seeds": []},
}
