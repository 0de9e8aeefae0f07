"""Every layer decomposed, the widths uniform: the paper's way of depthwise decomposition, with nothing to search.

See structure.depthwise. What the paper leaves open is which channels a cut keeps: every single criterion of the pool
and the equal blend are judged, and the best by validation is the method's network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import HALFWAY, Genome, Space
from blendsearch.pipeline.optimizers.base import Candidate
from blendsearch.pipeline.optimizers.baselines import ALL
from blendsearch.pipeline.optimizers.evolution import distinct
from blendsearch.pipeline.optimizers.one_shot import AskedOnce
from blendsearch.structure.groups import Cut


class AllDepthwise(AskedOnce):
    """The optimiser: asks for its seeds once (`baselines.all_depthwise`), and learns nothing."""

    def __init__(self, space: Space, decode: Callable[[Genome], Cut]) -> None:
        self.space, self.decode = space, decode

    def first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        return list(distinct(seeds, self.decode, limit).values())

    def of_described(self, facts: Mapping[str, Any]) -> Genome:
        return self.space.of_described(facts)

    def described(self, genome: Genome) -> dict[str, Any]:
        return self.space.described(genome)


def all_depthwise(decoder: Decoder) -> list[tuple[str, Genome]]:
    """Every single criterion and the equal blend, all layers decomposed, in the uniform allocation or the given one."""
    space = decoder.space
    allocation = "uniform" if decoder.fixed is None else decoder.fixed.name
    genomes = [(name, space.single(row)) for row, name in enumerate(space.criteria)]
    transform = np.full(space.layers, HALFWAY)
    return [
        (f"{name} {allocation}, {ALL}", genome._replace(transform=transform))
        for name, genome in [*genomes, ("equal blend", space.equal())]
    ]
