"""The network's input as JSON values."""

from typing import TypedDict


class InputDescription(TypedDict):
    """The network's input as JSON values, see `Splits.describe_input`."""

    shape: list[int]
    mean: list[float] | None
    std: list[float] | None
    scaled_to: list[int] | None
