"""Every layer decomposed, the widths uniform: the paper's way of depthwise decomposition, with nothing to search.

See structure.depthwise. What the paper leaves open is which channels a cut keeps: every single criterion of the pool
and the equal blend are judged, and the best by validation is the method's network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blendsearch.blend.genome import Genome, Space
from blendsearch.search.brought import AskedOnce
from blendsearch.search.evolution import distinct
from blendsearch.search.optimiser import Candidate
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
