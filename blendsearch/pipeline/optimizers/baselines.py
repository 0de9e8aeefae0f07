"""The baselines as genomes. They are in the first generation, so that no search ends below them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.allocation_rules import BLEND, AllocationRule, compute_global_scores, find_row
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import BASELINE_GENE, Genome
from blendsearch.blend.network_space import BlendSpace
from blendsearch.runs.origin import BEST_ALLOCATION, EQUAL_BLEND, make_rule_name

ALL_DEPTHWISE = "all depthwise"


def make_baselines(
    decoder: Decoder, anchors: int | Sequence[float], allocations: Sequence[AllocationRule] = (), criterion: str = BLEND
) -> list[tuple[str, Genome]]:
    """Make every single criterion and the equal blend, each in the uniform and in a global allocation, by name.

    A global allocation ranks all channels of the network by one criterion's raw score divided by the
    multiply-accumulates that the channel costs; raw, because only raw scores of different groups compare. The equal
    blend, which has no raw score, takes the mean of the criteria's global shares. Where budgets span a range, there is
    one of each at `anchors` evenly spaced targets, the largest first, or at the targets that `anchors` lists. Where the
    widths are not evolved, there is one allocation. Each rule of `allocations` adds the equal blend and, where it is
    one, the `criterion` that the rule was found with. Where layers may be decomposed, these decompose none, as far as
    the budget can be met so. Further ones are the equal blend with all layers decomposed, with the fewest that meet the
    budget without a cut, and with half.
    """
    own = "uniform" if decoder.allocation_rule is None else decoder.allocation_rule.name
    targets = np.linspace(1, 0, anchors) if isinstance(anchors, int) else np.array(anchors)
    if not decoder.has_budget_range:
        targets = np.zeros(1)
    found: list[tuple[str, Genome]] = []
    for target in targets:
        budget = _describe(decoder, float(target)) if decoder.has_budget_range else None
        shares = []
        for row, name in enumerate(decoder.space.criteria):
            genome = decoder.space.make_single_criterion(row)._replace(target=float(target))
            found.append((make_rule_name(name, own, budget=budget), genome))
            if not decoder.evolves_widths:
                continue
            scores = compute_global_scores(decoder.table, decoder.oracle, decoder.allowed, row)
            if scores is not None:
                everywhere = decoder.apply_global_threshold(genome, scores)
                shares.append(everywhere.share)
                found.append((make_rule_name(name, "global", budget=budget), everywhere))
        equal = decoder.space.make_equal_blend()._replace(target=float(target))
        found.append((make_rule_name(EQUAL_BLEND, own, budget=budget), equal))
        if shares:
            mean = equal._replace(share=np.mean(shares, axis=0))
            found.append((make_rule_name(EQUAL_BLEND, "global", budget=budget), mean))
        for name, transform in list_transforms(decoder, float(target)):
            found.append((make_rule_name(EQUAL_BLEND, own, name, budget), equal._replace(transform=transform)))
        for fixed in allocations:
            if criterion != BLEND:
                alone = decoder.space.make_single_criterion(find_row(decoder.table, criterion))._replace(
                    target=float(target)
                )
                name = make_rule_name(criterion, fixed.name, budget=budget)
                found.append((name, decoder.apply_allocation(alone, fixed)))
            name = make_rule_name(EQUAL_BLEND, fixed.name, budget=budget)
            found.append((name, decoder.apply_allocation(equal, fixed)))
    return found


def list_transforms(decoder: Decoder, target: float) -> list[tuple[str, NDArray[np.float64]]]:
    """List sets of decomposed layers to begin with, as genes, by name; none without a transform.

    Layers are ordered by the part of their kernels that they lose per multiply-accumulate saved, least first.
    """
    layers, oracle, sizes = len(decoder.oracle.layers), decoder.oracle, decoder.allowed.sizes
    if not layers:
        return []
    alone = [oracle.decompose_except(np.arange(layers) != layer) for layer in range(layers)]
    saved = np.array([float(oracle.compute_cost("macs", sizes) - held.compute_cost("macs", sizes)) for held in alone])
    order = np.argsort(decoder.misfit / np.maximum(saved, 1.0), kind="stable")
    place = np.argsort(order, kind="stable")
    meeting = [number for number in range(layers) if decoder.is_within_budget(place >= number, target)]
    enough = layers if not decoder.budget or not meeting else meeting[0]
    sets = {ALL_DEPTHWISE: layers, "enough depthwise": enough, "half of enough depthwise": enough // 2}
    return [(name, np.where(place < number, BASELINE_GENE, -BASELINE_GENE)) for name, number in sets.items()]


def vary_criteria(space: BlendSpace, best: Genome) -> list[tuple[str, Genome]]:
    """Make every criterion, and the equal blend, with the shares and the decomposed layers of `best`, by name."""
    genomes = [(name, space.make_single_criterion(row)) for row, name in enumerate(space.criteria)]
    genomes.append((EQUAL_BLEND, space.make_equal_blend()))
    return [(make_rule_name(name, BEST_ALLOCATION), best._replace(blend=genome.blend)) for name, genome in genomes]


def _describe(decoder: Decoder, target: float) -> str:
    return ", ".join(f"{ratio:.0%} {name}" for name, ratio in decoder.compute_budget(target).items())
