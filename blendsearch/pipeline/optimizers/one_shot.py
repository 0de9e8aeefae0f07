"""Optimizers that ask once and learn nothing."""

from collections.abc import Sequence
from typing import TypedDict

from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult


class EmptyState(TypedDict):
    """The state of an optimizer that has none."""


class OneShot:
    """Base of optimizers that propose one generation: no further candidates, and no state."""

    saves_steady_state = True

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        return []

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Ignore the results."""

    def ask_one(self, known: set[str]) -> Candidate | None:
        return None

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        """Ignore the results."""

    def state_dict(self) -> EmptyState:
        return {}

    def load_state_dict(self, state: EmptyState) -> None:
        """Do nothing: there is no state."""
