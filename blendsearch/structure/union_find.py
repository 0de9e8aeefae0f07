"""Which channels must go together: labels, tied into classes, some of them frozen."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NO_CHANNEL = -1
"""The label of what belongs to no channel and is always there."""


class UnionFind:
    """A disjoint-set forest over labels (Galler and Fischer 1964), and the reasons why some cannot be cut."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    @property
    def count(self) -> int:
        """How many labels there are."""
        return len(self._parent)

    def add_labels(self, count: int) -> NDArray[np.int64]:
        """New labels, tied to nothing, shape (count,)."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def unite(self, one: Tensor, other: Tensor, location: str) -> None:
        """Tie labels elementwise, both of one shape. One that meets ``FIXED`` is frozen, `where` being the reason."""
        base = len(self._parent) + 1
        pairs = np.unique((one.numpy() + 1) * base + other.numpy() + 1)  # -1 is the lowest label
        for left, right in zip((pairs // base - 1).tolist(), (pairs % base - 1).tolist(), strict=True):
            if left == NO_CHANNEL or right == NO_CHANNEL:
                if left != right:
                    self._reasons.setdefault(max(left, right), f"{location} ties it to what stays whole")
            else:
                first, second = sorted((self._find_root(left), self._find_root(right)))
                self._parent[second] = first

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Never cut these; the first reason given for a label stays."""
        for label in np.unique(labels.numpy()).tolist():
            if label != NO_CHANNEL:
                self._reasons.setdefault(label, reason)

    def find_roots(self) -> NDArray[np.int64]:
        """For each label the lowest label of its class, shape (labels,)."""
        return np.asarray([self._find_root(label) for label in range(len(self._parent))], dtype=np.int64)

    def collect_frozen(self) -> dict[int, str]:
        """The frozen classes by their lowest labels, each with the first reason given for one of its labels."""
        reasons: dict[int, str] = {}
        for label, reason in self._reasons.items():
            reasons.setdefault(self._find_root(label), reason)
        return reasons

    def _find_root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = label = self._parent[self._parent[label]]
        return label
