"""The baselines, as genomes: seeded into the first generation, so that no search ends below them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation_rules import BLEND, Fixed, global_scores, row_of
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import HALFWAY, Genome
from blendsearch.blend.network_space import NetworkSpace
from blendsearch.runs.origin import IN_BEST

ALL = "all depthwise"


def baselines(
    decoder: Decoder, anchors: int, measured: Sequence[Fixed] = (), criterion: str = BLEND
) -> list[tuple[str, Genome]]:
    """Every single criterion and the equal blend, each in the uniform and in a global allocation, by name.

    A global allocation ranks all channels of the network by one criterion's raw score divided by the
    multiply-accumulates that go with the channel; raw, because only so do scores of different groups compare. The equal
    blend, which has no raw score, takes the mean of the criteria's global shares. Where budgets span a range, all stand
    at `anchors` evenly spaced targets, the largest first. Where the widths are not evolved, there is one allocation. In
    each of the allocations `measured` stand the equal blend and, where it is one, the `criterion` they were found with.
    Where layers may be decomposed, these leave all whole, as far as the budget can be met so; further ones are the
    equal blend with all layers decomposed, with as few as meet the budget without any cut, and with half of these.
    """
    own = "uniform" if decoder.fixed is None else decoder.fixed.name
    targets = np.linspace(1, 0, anchors) if decoder.spans else np.zeros(1)
    found: list[tuple[str, Genome]] = []
    for target in targets:
        at = f" at {_describe(decoder, float(target))}" if decoder.spans else ""
        shares = []
        for row, name in enumerate(decoder.space.criteria):
            genome = decoder.space.single(row)._replace(target=float(target))
            found.append((f"{name} {own}{at}", genome))
            if not decoder.evolves_widths:
                continue
            scores = global_scores(decoder.table, decoder.oracle, decoder.allowed, row)
            if scores is not None:
                everywhere = decoder.globally(genome, scores)
                shares.append(everywhere.share)
                found.append((f"{name} global{at}", everywhere))
        equal = decoder.space.equal()._replace(target=float(target))
        found.append((f"equal blend {own}{at}", equal))
        if shares:
            found.append((f"equal blend global{at}", equal._replace(share=np.mean(shares, axis=0))))
        for name, transform in transforms(decoder, float(target)):
            found.append((f"equal blend {own}, {name}{at}", equal._replace(transform=transform)))
        for fixed in measured:
            if criterion != BLEND:
                alone = decoder.space.single(row_of(decoder.table, criterion))._replace(target=float(target))
                found.append((f"{criterion} {fixed.name}{at}", decoder.seeded(alone, fixed)))
            found.append((f"equal blend {fixed.name}{at}", decoder.seeded(equal, fixed)))
    return found


def transforms(decoder: Decoder, target: float) -> list[tuple[str, NDArray[np.float64]]]:
    """Sets of decomposed layers worth beginning with, as genes, by name; none where no transform is asked for.

    First come the layers that lose the smallest part of their kernels for each multiply-accumulate saved.
    """
    layers, oracle, sizes = decoder.space.layers, decoder.oracle, decoder.allowed.sizes
    if not layers:
        return []
    alone = [oracle.with_whole(np.arange(layers) != layer) for layer in range(layers)]
    saved = np.array([float(oracle.cost("macs", sizes) - held.cost("macs", sizes)) for held in alone])
    order = np.argsort(decoder.misfit / np.maximum(saved, 1.0), kind="stable")
    place = np.argsort(order, kind="stable")
    meeting = [number for number in range(layers) if decoder.meets(place >= number, target)]
    enough = layers if not decoder.budget or not meeting else meeting[0]
    sets = {ALL: layers, "enough depthwise": enough, "half of enough depthwise": enough // 2}
    return [(name, np.where(place < number, HALFWAY, -HALFWAY)) for name, number in sets.items()]


def in_allocation(space: NetworkSpace, best: Genome) -> list[tuple[str, Genome]]:
    """Every criterion, and the equal blend, with the shares and the decomposed layers of `best`, by name."""
    genomes = [(name, space.single(row)) for row, name in enumerate(space.criteria)]
    genomes.append(("equal blend", space.equal()))
    return [(f"{name}{IN_BEST}", best._replace(blend=genome.blend)) for name, genome in genomes]


def _describe(decoder: Decoder, target: float) -> str:
    return ", ".join(f"{ratio:.0%} {name}" for name, ratio in decoder.budget_at(target).items())
