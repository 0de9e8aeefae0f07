"""Functions that fill copies of the lists and dictionaries of the originals."""

from __future__ import annotations

import copy
import dis
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import nn

CONTAINERS = (list, dict, set, bytearray)


def isolate(function: Any, memo: dict[int, Any]) -> Any:
    """Return `function` with copies of the containers that it refers to, so that a call leaves these unchanged.

    Containers are those of its closure, its defaults, the global variables it reads, and the attributes of the object
    that it is a method of. Methods of a module are those of its copy in `memo`.
    """
    if isinstance(function, FunctionType):
        return _isolate_function(function)
    if isinstance(function, MethodType):
        owner = function.__self__
        return MethodType(_isolate_function(function.__func__), memo.get(id(owner), _copy_object(owner)))  # type: ignore[arg-type]
    if isinstance(function, partial):
        return partial(
            isolate(function.func, memo),
            *(_copy_container(item) for item in function.args),
            **{name: _copy_container(item) for name, item in function.keywords.items()},
        )
    owner = getattr(function, "__self__", None)
    if isinstance(owner, CONTAINERS):  # such as features.append
        return getattr(copy.copy(owner), function.__name__)
    return memo.get(id(function), _copy_object(function))


def _isolate_function(function: FunctionType) -> FunctionType:
    read = {item.argval for item in dis.get_instructions(function.__code__) if item.opname == "LOAD_GLOBAL"}
    names = {**function.__globals__}
    names |= {name: _copy_container(names[name]) for name in read & names.keys()}
    made = FunctionType(
        function.__code__,
        names,
        function.__name__,
        tuple(_copy_container(item) for item in function.__defaults__ or ()) or None,
        tuple(_copy_cell(cell) for cell in function.__closure__ or ()) or None,
    )
    made.__kwdefaults__ = copy.copy(function.__kwdefaults__)
    return made


def _copy_cell(cell: CellType) -> CellType:
    try:
        return CellType(_copy_container(cell.cell_contents))
    except ValueError:  # an empty cell
        return cell


def _copy_object(value: Any) -> Any:
    """Return a copy of an object whose attributes are copies where they are containers."""
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        return value
    try:
        made = copy.copy(value)
        vars(made).update({name: _copy_container(item) for name, item in vars(value).items()})
    except Exception:  # an object that refuses copies keeps its own
        return value
    return made


def _copy_container(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, CONTAINERS) else value
