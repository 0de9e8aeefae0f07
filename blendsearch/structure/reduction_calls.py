"""Calls of reductions, numbered in the order in which a forward pass makes them."""

REDUCTIONS = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean"), 1),
    **dict.fromkeys(("max", "min", "all", "any", "_is_all_true", "_is_any_true"), 1),
    "linalg_vector_norm": 2,
}
"""Operations that reduce dimensions, with the place of these among the arguments."""

NORMALIZATIONS = ("native_layer_norm", "native_group_norm")
"""Operations that compute statistics over channels and apply them."""


class CallCounter:
    """Numbers the calls of each reduction or normalisation in the code of each module, in one forward pass."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def reset(self) -> None:
        """Begin a new forward pass."""
        self._counts.clear()

    def count(self, module: str, name: str) -> str:
        """Count a call of the operation `name`; return its identity."""
        number = self._counts[module, name] = self._counts.get((module, name), 0) + 1
        return f"{module}: {name} {number}"


def format_statistic(call: str, dim: int) -> str:
    """Format the name of a call that reduces channels along `dim`."""
    return f"{call} over dimension {dim}"
