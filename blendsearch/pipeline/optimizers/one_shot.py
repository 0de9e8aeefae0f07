"""Optimizers that ask once and learn nothing."""

from collections.abc import Sequence
from typing import Any

from blendsearch.pipeline.optimizers.base import Candidate, Judged


class AskedOnce:
    """What an optimiser is after its first generation when it has nothing to search: silent, and without a state."""

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        return []

    def tell(self, judged: Sequence[Judged]) -> None:
        """Nothing is learnt."""

    def ask_one(self, known: set[str]) -> Candidate | None:
        return None

    def tell_one(self, digest: str, judged: Judged | None) -> None:
        """Nothing is learnt."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is nothing to go on with."""
