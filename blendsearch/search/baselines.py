"""The baselines, as genomes: seeded into the first generation, so that no search ends below them."""

import numpy as np

from blendsearch.blend.decode import Decoder
from blendsearch.blend.genome import Genome
from blendsearch.blend.networkwide import NetworkSpace
from blendsearch.search.front import IN_BEST


def baselines(decoder: Decoder, anchors: int) -> list[tuple[str, Genome]]:
    """Every single criterion and the equal blend, each in the uniform and in a global allocation, by name.

    A global allocation ranks all channels of the network by one criterion's raw score divided by the
    multiply-accumulates that go with the channel; raw, because only so do scores of different groups compare. The equal
    blend, which has no raw score, takes the mean of the criteria's global shares. Where budgets span a range, all stand
    at `anchors` evenly spaced targets, the largest first. Where the widths are not evolved, there is one allocation.
    """
    per_channel = decoder.oracle.per_channel("macs", decoder.allowed.sizes)
    targets = np.linspace(1, 0, anchors) if decoder.spans else np.zeros(1)
    found: list[tuple[str, Genome]] = []
    for target in targets:
        at = f" at {_describe(decoder, float(target))}" if decoder.spans else ""
        shares = []
        for row, name in enumerate(decoder.space.criteria):
            genome = decoder.space.single(row)._replace(target=float(target))
            found.append((f"{name} {'uniform' if decoder.given is None else 'given'}{at}", genome))
            if not decoder.evolves_widths:
                continue
            scores = []
            for group, table in enumerate(decoder.table.scores):
                usable = np.isfinite(table[row]).all()
                scores.append(table[row] / per_channel[group] if usable else np.full(table.shape[1], np.nan))
            if all(np.isfinite(values).all() for values in scores):
                everywhere = decoder.globally(genome, scores)
                shares.append(everywhere.share)
                found.append((f"{name} global{at}", everywhere))
        equal = decoder.space.equal()._replace(target=float(target))
        found.append((f"equal blend {'uniform' if decoder.given is None else 'given'}{at}", equal))
        if shares:
            found.append((f"equal blend global{at}", equal._replace(share=np.mean(shares, axis=0))))
    return found


def in_allocation(space: NetworkSpace, best: Genome) -> list[tuple[str, Genome]]:
    """Every criterion, and the equal blend, with the shares of `best`, by name."""
    genomes = [(name, space.single(row)) for row, name in enumerate(space.criteria)]
    genomes.append(("equal blend", space.equal()))
    return [(f"{name}{IN_BEST}", genome._replace(share=best.share, target=best.target)) for name, genome in genomes]


def _describe(decoder: Decoder, target: float) -> str:
    return ", ".join(f"{ratio:.0%} {name}" for name, ratio in decoder.budget_at(target).items())
