"""Random search: the control that an optimizer has to beat.

It evaluates the same baselines, so it ends no worse than any of them. Half of its draws are around the allocation of
the best baseline, the others anywhere in the space. It learns nothing from its draws.
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from blendsearch.blend.genome import Genome, GenomeFields, Space, check_genes, compute_flip_step, unflatten_genome
from blendsearch.pipeline.optimizers.base import (
    Candidate,
    CandidateResult,
    RandomState,
    get_random_state,
    set_random_state,
)
from blendsearch.pipeline.optimizers.evolution import TRIES, merge_duplicate_seeds
from blendsearch.runs.origin import EVOLVED
from blendsearch.structure.groups import Cut, compute_cut_digest

WIDEST_STEP = 0.15
"""Largest standard deviation of shares drawn around the best baseline's."""


class RandomSearchState(TypedDict):
    """The state of `RandomSearch` in a checkpoint. `best` is the loss and the genes of the best baseline."""

    numpy: RandomState
    best: tuple[float, list[float]] | None


class RandomSearch:
    """The optimizer; all randomness comes from `rng`."""

    saves_steady_state = True

    def __init__(self, space: Space, decode: Callable[[Genome], Cut], size: int, rng: np.random.Generator) -> None:
        self.space, self.decode, self.size, self.rng = space, decode, size, rng
        self.best: tuple[float, list[float]] | None = None

    def ask_first(self, seeds: Sequence[tuple[str, Genome]], limit: int) -> list[Candidate]:
        return list(merge_duplicate_seeds(seeds, self.decode, limit).values())

    def ask(self, count: int, known: set[str]) -> list[Candidate]:
        found: dict[str, Candidate] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            genome = self._draw()
            cut = self.decode(genome)
            digest = compute_cut_digest(cut)
            if digest not in known:
                found.setdefault(digest, Candidate(genome, cut, digest, EVOLVED))
        return list(found.values())

    def tell(self, results: Sequence[CandidateResult]) -> None:
        """Keep the best baseline."""
        for item in results:
            if item.origin != EVOLVED and (self.best is None or item.objectives[0] < self.best[0]):
                self.best = (item.objectives[0], item.genome.flatten())

    def ask_one(self, known: set[str]) -> Candidate | None:
        return next(iter(self.ask(1, known)), None)

    def tell_one(self, digest: str, result: CandidateResult | None) -> None:
        self.tell([] if result is None else [result])

    def serialize_genome(self, genome: Genome) -> GenomeFields:
        return self.space.describe(genome)

    def deserialize_genome(self, facts: GenomeFields) -> Genome:
        return self.space.parse_genome(facts)

    def state_dict(self) -> RandomSearchState:
        return {"numpy": get_random_state(self.rng), "best": self.best}

    def load_state_dict(self, state: RandomSearchState) -> None:
        set_random_state(self.rng, state["numpy"])
        if state["best"] is not None:
            check_genes(self.space, state["best"][1])
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])

    def _draw(self) -> Genome:
        genome = self.space.sample(self.rng)
        if self.best is None or self.rng.random() < 0.5:
            return genome
        around = unflatten_genome(self.space, self.best[1])
        noise = self.rng.normal(0, self.rng.uniform(0, WIDEST_STEP), len(around.share))
        other = self.rng.normal(0, compute_flip_step(self.space.layers), len(around.transform))
        share, transform = np.clip(around.share + noise, -1, 1), np.clip(around.transform + other, -1, 1)
        return genome._replace(share=share, transform=transform)
