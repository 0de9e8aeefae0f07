"""Torch-Pruning's own global and local pruner, as a method: two cuts at the budget, and nothing to search."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blendsearch.blend.genome import Genome
from blendsearch.search.optimiser import Candidate, Judged
from blendsearch.search.setting import Setting
from blendsearch.structure.groups import cut_digest
from blendsearch.structure.peer import torch_pruning_cut


class Peers:
    """The optimiser: asks for what it is given once, and learns nothing. `decoder`'s budget must be one, not a span."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """The global pruner's cut and the local one's; each in its name, one candidate where they agree."""
        setting = self.setting
        height, width, channels = setting.splits.train.shape
        nothing = self._nothing()
        found: dict[str, Candidate] = {}
        for name, everywhere in (("Torch-Pruning global", True), ("Torch-Pruning local", False)):
            cut = torch_pruning_cut(
                setting.model, setting.structure, (channels, height, width), setting.decoder.budget_at(0.0), everywhere
            )
            found.setdefault(cut_digest(cut), Candidate(nothing, cut, cut_digest(cut), name))
        return list(found.values())[:limit]

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        return []

    def tell(self, judged: Sequence[Judged]) -> None:
        """Nothing is learnt."""

    def ask_one(self, known: set[str]) -> Candidate | None:
        return None

    def tell_one(self, digest: str, judged: Judged | None) -> None:
        """Nothing is learnt."""

    def described(self, genome: Genome) -> dict[str, Any]:
        return {}

    def of_described(self, facts: Mapping[str, Any]) -> Genome:
        return self._nothing()

    def _nothing(self) -> Genome:
        return Genome(np.zeros(0), np.zeros(self.setting.decoder.space.groups), 0.0)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is nothing to go on with."""
