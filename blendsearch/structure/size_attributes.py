"""Integers among the attributes of modules that hold numbers of channels, by name.

``block.width`` names an integer or a tuple of one, and ``block.widths[1]`` an item of a list or tuple.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

SEQUENCES = (tuple, list)
_NAME = re.compile(r"(?:(.*)\.)?([^.\[\]]+)(?:\[(\d+)\])?")


def get_size(model: nn.Module, name: str) -> int | None:
    """Return the integer called `name`; None if no module of `model` has it, or if it is private."""
    owner, attribute, place = _parse_name(name)
    try:
        value = vars(model.get_submodule(owner)).get(attribute)
    except AttributeError:
        return None
    if place is None and type(value) is tuple and len(value) == 1:
        value = value[0]
    elif place is not None:
        value = value[place] if isinstance(value, SEQUENCES) and place < len(value) else None
    return value if type(value) is int and not attribute.startswith("_") else None


def set_sizes(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Set integers of the modules of `model`, by their names."""
    for name, size in sizes.items():
        owner, attribute, place = _parse_name(name)
        module = model.get_submodule(owner)
        value = _replace_size(getattr(module, attribute, size), place, size)
        setattr(module, attribute, value)


def _replace_size(value: Any, place: int | None, size: int) -> Any:
    """Return an attribute with `size` in place of its integer, or of its item at `place`."""
    if place is not None:
        return type(value)([*value[:place], size, *value[place + 1 :]])
    return (size,) if isinstance(value, tuple) else size


def _parse_name(name: str) -> tuple[str, str, int | None]:
    """Return the module, the attribute, and the place in it; an empty attribute for other names."""
    found = _NAME.fullmatch(name)
    if found is None:
        return "", "", None
    owner, attribute, place = found.groups()
    return owner or "", attribute, None if place is None else int(place)
