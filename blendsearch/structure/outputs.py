"""Tensors inside the outputs of user-defined networks, and their comparison."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor, nn

MAX_DEPTH = 8
"""Levels of nested containers that are searched."""


def list_tensors(tree: object) -> list[Tensor]:
    """List all tensors in nested tuples, lists, mappings, dataclasses and objects with attributes, in their order."""
    return list(_iter_tensors(tree, MAX_DEPTH))


def are_close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return True for equal shapes, and differences of at most `tolerance` of the largest value expected."""
    if found.shape != expected.shape:
        return False
    return float((found - expected).abs().max()) <= tolerance * max(1e-12, float(expected.abs().max()))


def _iter_tensors(tree: object, depth: int) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif depth and tree is not None:
        for part in _iter_parts(tree):
            yield from _iter_tensors(part, depth - 1)


def _iter_parts(tree: object) -> Iterator[object]:
    if isinstance(tree, Mapping):
        yield from tree.values()
    elif isinstance(tree, list | tuple | set | frozenset):
        yield from tree
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from (getattr(tree, item.name, None) for item in fields(tree))
    elif callable(getattr(tree, "values", None)) and not isinstance(tree, type):
        yield from tree.values()  # type: ignore[attr-defined]
    elif hasattr(tree, "__dict__") and not isinstance(tree, type | nn.Module):
        yield from vars(tree).values()
