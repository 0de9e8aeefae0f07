"""Coupling of channels: labels, united into classes, some of which are frozen."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_CHANNEL = -1
"""Label of positions that belong to no channel and are always kept."""


class UnionFind:
    """Disjoint-set forest over labels (Galler and Fischer 1964), with reasons why some cannot be cut."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._assumptions: dict[int, str] = {}

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self._parent)

    def add_labels(self, count: int) -> NDArray[np.int64]:
        """Add `count` labels, each in its own class; return them, (count,)."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def unite(self, one: Tensor, other: Tensor, location: str) -> None:
        """Unite labels elementwise; both tensors have the same shape.

        A label that meets `NO_CHANNEL` is frozen, and `location` is part of the reason.
        """
        base = len(self._parent) + 1
        pairs = np.unique((one.numpy() + 1) * base + other.numpy() + 1)  # -1 is the lowest label
        for left, right in zip((pairs // base - 1).tolist(), (pairs % base - 1).tolist(), strict=True):
            if left == NO_CHANNEL or right == NO_CHANNEL:
                if left != right:
                    self._reasons.setdefault(max(left, right), f"{location} couples it to positions that are never cut")
            else:
                first, second = sorted((self.find_root(left), self.find_root(right)))
                self._parent[second] = first

    def canonicalize(self, labels: Tensor) -> Tensor:
        """Return labels of the same shape, each replaced by the lowest label of its class."""
        distinct, inverse = np.unique(labels.numpy(), return_inverse=True)
        roots = [label if label == NO_CHANNEL else self.find_root(label) for label in distinct.tolist()]
        return torch.from_numpy(np.asarray(roots, dtype=np.int64)[inverse].reshape(labels.shape))

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Mark labels as never cut. The first reason for a label stays."""
        for label in np.unique(labels.numpy()).tolist():
            if label != NO_CHANNEL:
                self._reasons.setdefault(label, reason)

    def assume(self, labels: Tensor, location: str) -> None:
        """Note that labels are united by an assumption on the code at `location`. The first note stays."""
        for label in np.unique(labels.numpy()).tolist():
            if label != NO_CHANNEL:
                self._assumptions.setdefault(label, location)

    def is_assumed(self, labels: Tensor) -> bool:
        """Return True if some of the labels were united by an assumption."""
        return any(label in self._assumptions for label in np.unique(labels.numpy()).tolist())

    def collect_assumptions(self) -> dict[int, str]:
        """Return the first assumption on each class that has one, by the lowest label."""
        found: dict[int, str] = {}
        for label, location in self._assumptions.items():
            found.setdefault(self.find_root(label), location)
        return found

    def find_roots(self) -> NDArray[np.int64]:
        """Return, for each label, the lowest label of its class: (labels,)."""
        return np.asarray([self.find_root(label) for label in range(len(self._parent))], dtype=np.int64)

    def collect_frozen(self) -> dict[int, str]:
        """Return the frozen classes by their lowest labels, with the first reason for one of their labels."""
        reasons: dict[int, str] = {}
        for label, reason in self._reasons.items():
            reasons.setdefault(self.find_root(label), reason)
        return reasons

    def find_root(self, label: int) -> int:
        """Return the lowest label of the class of `label`."""
        while self._parent[label] != label:
            self._parent[label] = label = self._parent[self._parent[label]]
        return label
