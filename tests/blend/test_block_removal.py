"""Removal of blocks in a search: budgets stay exact, and genes decide as far as a budget allows."""

from dataclasses import replace

import numpy as np
import pytest
from decoders import make_decoder
from hypothesis import given, settings
from hypothesis import strategies as st

from blendsearch.blend.allocation import compute_min_ratios
from blendsearch.blend.block_removal import select_groups
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import BASELINE_GENE, unflatten_genome
from blendsearch.errors import BudgetError
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.structure.latency_model import LatencyModel, extract_layers, fit_latency_model
from blendsearch.structure.residual_blocks import add_removable_blocks
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.cifar_resnet import cifar_resnet

SHAPE = (3, 16, 16)
MODEL = cifar_resnet(20).eval()
RESNET = add_removable_blocks(MODEL, trace_structure(MODEL, SHAPE), SHAPE)
BLOCKS = RESNET.maps.blocks
DENSE = 10_000_000


def fit_layer_counts() -> LatencyModel:
    """Fit a machine on which every layer takes the same time, whatever its width."""
    layers = extract_layers(RESNET.oracle, counted=True)
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(2, RESNET.maps.sizes + 1) for _ in range(60)])
    for row in counts:
        row[[group for block in BLOCKS if rng.random() < 0.4 for group in block]] = 0
    present = layers.compute_features(counts)[:, -1] / layers.compute_features(RESNET.maps.sizes)[-1]
    return fit_latency_model(layers, counts, present, DENSE, np.ones(60, dtype=np.bool_))


LATENCY = fit_layer_counts()


def make_block_decoder(budget: dict[str, tuple[float, float]], round_to: int = 1) -> Decoder:
    decoder = make_decoder(RESNET, (1.0, 1.0), round_to=round_to)
    return replace(
        decoder,
        space=replace(decoder.space, layers=len(BLOCKS), transform_name="blocks"),
        oracle=RESNET.oracle.add_cost("latency", LATENCY, DENSE),
        allowed=replace(decoder.allowed, blocks=BLOCKS),
        budget=budget,
    )


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    names=st.sampled_from(["macs", "params", "latency", "macs latency"]),
    ratio=st.floats(0.2, 0.95),
    round_to=st.sampled_from([1, 4]),
)
def test_every_genome_meets_its_budget_and_uses_it_up(seed: int, names: str, ratio: float, round_to: int) -> None:
    budget = dict.fromkeys(names.split(), (ratio, ratio))
    decoder = make_block_decoder(budget, round_to)
    genome = decoder.space.sample(np.random.default_rng(seed))
    cut, removed = decoder.decode(genome), decoder.decode_removed_blocks(genome)
    counts = RESNET.maps.count_kept(cut)
    assert ((counts == 0) == ~decoder.allowed.find_kept_groups(removed)).all()
    kept = counts > 0
    assert (counts >= decoder.allowed.low)[kept].all()
    found = {name: float(decoder.oracle.compute_ratio(name, counts)) for name in budget}
    assert all(cost <= ratio for cost in found.values())
    dense_rest = np.where(kept, decoder.allowed.sizes, 0)
    wider = counts + np.diag(np.where(kept & (counts < dense_rest), decoder.allowed.step, 0))
    over = [decoder.oracle.compute_ratio(name, np.minimum(wider, dense_rest)) > ratio for name in budget]
    assert max(found.values()) > ratio - 0.005 or np.any(over, axis=0)[counts < dense_rest].all()


def test_genes_decide_which_blocks_go() -> None:
    decoder = make_block_decoder({"macs": (0.4, 0.4)})
    genes = np.where(np.arange(9) % 2, 0.3, -0.3)
    genome = decoder.space.make_equal_blend()._replace(transform=genes)
    assert (decoder.decode_removed_blocks(genome) == (genes > 0)).all()


def test_blocks_with_the_lowest_genes_stay_where_too_many_would_go() -> None:
    decoder = make_block_decoder({"macs": (0.9, 0.9)})
    genes = np.linspace(0.9, 0.1, 9)
    removed = decoder.decode_removed_blocks(decoder.space.make_equal_blend()._replace(transform=genes))
    assert 0 <= removed.sum() < 9 and genes[removed].min(initial=1.0) > genes[~removed].max()


def test_blocks_with_the_highest_genes_go_where_narrow_ones_cannot_meet_the_budget() -> None:
    decoder = make_block_decoder({"latency": (0.6, 0.6)})
    genes = -np.linspace(0.9, 0.1, 9)
    removed = decoder.decode_removed_blocks(decoder.space.make_equal_blend()._replace(transform=genes))
    assert 2 < removed.sum() < 6 and genes[removed].min() > genes[~removed].max()
    least = compute_min_ratios(decoder.oracle, decoder.allowed)["latency"]
    assert least < 0.3
    with pytest.raises(BudgetError, match="reachable is"):
        make_block_decoder({"latency": (0.9 * least, 0.9 * least)})


def test_baselines_keep_all_blocks_where_the_budget_allows() -> None:
    decoder = make_block_decoder({"macs": (0.5, 0.5)})
    baselines = make_baselines(decoder, 1)
    assert len(baselines) == 12
    assert all(RESNET.maps.count_kept(decoder.decode(genome)).all() for _, genome in baselines)


def test_genes_of_blocks_are_stored_under_their_name() -> None:
    space = make_block_decoder({"macs": (0.5, 0.5)}).space
    genome = space.sample(np.random.default_rng(0))
    assert unflatten_genome(space, genome.flatten()).flatten() == genome.flatten()
    facts = space.describe(genome)
    assert facts["blocks"] == genome.transform.tolist() and "transform" not in facts
    assert space.parse_genome(facts).flatten() == genome.flatten()
    del facts["blocks"]  # of a run that removed none, which a fork continues
    assert (space.parse_genome(facts).transform == -BASELINE_GENE).all()
    assert not len(replace(space, layers=0).parse_genome(space.describe(genome)).transform)


def test_selected_groups_cost_what_the_network_costs() -> None:
    decoder = make_block_decoder({"macs": (0.5, 0.5)})
    kept = np.array([0, 1, 3, 5, 9])
    counts = np.zeros((2, 12), dtype=np.int64)
    counts[:, kept] = [[3, 4, 5, 6, 7], [8, 9, 10, 11, 12]]
    selected = select_groups(decoder.oracle, kept)
    for name in ("macs", "params", "latency"):
        expected = decoder.oracle.compute_cost(name, counts)
        assert selected.compute_cost(name, counts[:, kept]).tolist() == expected.tolist()


def test_a_latency_model_learns_the_time_of_layers() -> None:
    counts = np.tile(RESNET.maps.sizes, (10, 1))
    for number in range(1, 10):
        counts[number, [group for block in BLOCKS[:number] for group in block]] = 0
    assert np.allclose(LATENCY.predict(counts), 1 - np.arange(10) * 2 / 20, atol=0.03)
    assert (np.diff(LATENCY(counts)) <= 0).all()
    again = LatencyModel.from_arrays(LATENCY.to_arrays())
    assert again(counts).tolist() == LATENCY(counts).tolist()
    assert "layers.counted" not in replace(LATENCY, layers=extract_layers(RESNET.oracle)).to_arrays()
