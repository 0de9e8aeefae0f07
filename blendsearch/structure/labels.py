"""Labels of the elements of an activation, compact along dimensions in which they do not vary."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = Tensor
"""Integers, one per element of an activation; dimensions along which they do not vary have stride 0 or size 1."""


def expand_labels(labels: NDArray[np.int64], dim: int, shape: torch.Size) -> Labels:
    """Expand labels along `dim` to `shape`; they are equal along the other dimensions."""
    return torch.from_numpy(labels).reshape([-1 if other == dim else 1 for other in range(len(shape))]).expand(shape)


def is_flat(labels: Labels, dim: int) -> bool:
    """Return True if the labels do not vary along `dim`."""
    return labels.shape[dim] == 1 or labels.stride(dim) == 0


def find_varying_dims(labels: Labels) -> list[int]:
    """Return the dimensions along which the labels vary."""
    return [dim for dim in range(labels.ndim) if not is_flat(labels, dim)]


def collapse(labels: Labels, dims: Sequence[int] | None = None) -> Labels:
    """Take one slice along each of `dims`, by default along every dimension in which nothing varies."""
    for dim in range(labels.ndim) if dims is None else dims:
        if is_flat(labels, dim) and labels.shape[dim]:
            labels = labels.narrow(dim, 0, 1)
    return labels


def compact(labels: Tensor) -> Labels:
    """Return labels with stride 0 along dimensions in which they do not vary."""
    if not labels.numel():
        return labels
    small = collapse(labels)
    for dim in find_varying_dims(small):
        one = small.narrow(dim, 0, 1)
        if bool((small == one).all()):
            small = one
    return small.expand(labels.shape)


def get_vector(labels: Labels) -> tuple[int, Tensor] | None:
    """Return the only dimension along which the labels vary, and the labels along it; None for none or several."""
    dims = find_varying_dims(labels)
    return (dims[0], collapse(labels).flatten()) if len(dims) == 1 else None


def list_distinct(labels: Labels) -> Tensor:
    """Return the sequence of labels, with adjacent repetitions removed."""
    order: Tensor = torch.unique_consecutive(collapse(labels).flatten())
    return order
