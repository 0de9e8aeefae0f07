"""Methods that bring the networks to judge along: Torch-Pruning's pruners, and the neighbours' one network each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blendsearch.blend.genome import Genome
from blendsearch.pipeline.optimizers.base import Candidate
from blendsearch.pipeline.optimizers.one_shot import AskedOnce
from blendsearch.pipeline.problem.problem import Setting
from blendsearch.structure.groups import Cut, cut_digest


class Brought(AskedOnce):
    """The optimiser: asks once for the `networks` that it is given, by name, and learns nothing."""

    def __init__(self, setting: Setting, networks: Sequence[tuple[str, Cut]]) -> None:
        self.networks, self.groups = networks, setting.decoder.space.groups

    def first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        """Each network in its name, one candidate where two agree."""
        nothing = self._nothing()
        found: dict[str, Candidate] = {}
        for name, cut in self.networks:
            found.setdefault(cut_digest(cut), Candidate(nothing, cut, cut_digest(cut), name))
        return list(found.values())[:limit]

    def of_described(self, facts: Mapping[str, Any]) -> Genome:
        return self._nothing()

    def _nothing(self) -> Genome:
        return Genome(np.zeros(0), np.zeros(self.groups), 0.0)

    def described(self, genome: Genome) -> dict[str, Any]:
        return {}


def own_network(setting: Setting) -> list[tuple[str, Cut]]:
    """The network of the method that the config names: its own channels, or its widths with the blend's best ones."""
    name = setting.config.method
    cut = setting.measured[name].cut
    return [(name, setting.decoder.cut(setting.decoder.space.equal()) if cut is None else cut)]
