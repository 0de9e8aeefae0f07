"""Optimizers that ask once and learn nothing."""

from collections.abc import Sequence
from typing import Any

from blendsearch.pipeline.optimizers.base import Candidate, CandidateResult


class OneShot:
    """What an optimiser is after its first generation when it has nothing to search: silent, and without a state."""

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        return []

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Nothing is learnt."""

    def ask_one(self, known: set[str]) -> Candidate | None:
        return None

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        """Nothing is learnt."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to go on with."""
