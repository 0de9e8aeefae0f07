"""Searches that also decide which layers are decomposed: within budget, resumable, exported, and comparable."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from resumed_search import list_rows, search_with_interruption
from torch import nn

import blendsearch
from blendsearch.blend.allocation_rules import make_constant_rule as given_beforehand
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.genome import BASELINE_GENE, Genome, compute_bounds, compute_flip_step, unflatten_genome
from blendsearch.cli.main import main
from blendsearch.errors import BudgetError, ConfigError, ModelError
from blendsearch.events import ignore_event
from blendsearch.pipeline.control_runs import plan_comparison
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import parse_config
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.cost import count_macs
from blendsearch.structure.groups import unpack_cut
from blendsearch.zoo.factory import build_model

LAYERS = ["stem.0", "inner.0", "outer.0", "down.0", "top.0"]
IMAGE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def problem() -> Problem:
    tree = {
        "transform": "depthwise",
        "model": {"factory": "digits_net", "arguments": {"width": 8}, "train": {"epochs": 1, "rate": 0.1}},
        "data": {"dataset": "digits", "val_size": 0.3},
        "criteria": {"pool": ["l1", "bn_gamma", "apoz"], "images": 64},
        "budget": {"macs": 0.4},
        "fitness": {"recalibration_images": 128, "device": "cpu"},
        "engine": {"threads": 1},
    }
    return build_problem(parse_config(tree, "here"), ignore_event)


@given(
    seed=st.integers(0, 10_000),
    budget=st.sampled_from([{"macs": 0.5}, {"macs": 0.06}, {"params": 0.1}, {"macs": 0.3, "params": 0.12}]),
)
def test_every_genome_meets_its_budget_with_the_layers_it_decomposes(
    problem: Problem, seed: int, budget: dict[str, float]
) -> None:
    held = replace(problem.decoder, budget={name: (ratio, ratio) for name, ratio in budget.items()})
    genome = held.space.sample(np.random.default_rng(seed))
    cut = held.decode(genome)
    maps, oracle = problem.structure.maps, problem.structure.oracle
    counts = maps.count_kept(cut)
    assert all(float(oracle.compute_ratio(name, counts)) <= ratio for name, ratio in budget.items())
    whole = cut[maps.offsets[-1] :]
    groups = counts[: len(maps.groups)]
    assert not whole[(genome.transform > 0) & oracle.is_cheaper_decomposed(groups)].any()
    # as much as the budget allows: one channel more of the narrowest group, or all are there
    if (groups < maps.sizes).all():
        assert max(float(oracle.compute_ratio(name, counts)) / ratio for name, ratio in budget.items()) > 0.85


def test_layers_follow_by_their_genes_where_a_set_cannot_meet_the_budget(problem: Problem) -> None:
    plain = replace(
        problem.decoder.oracle, layers=np.zeros(0, dtype=np.int64), undecomposed=np.zeros(0, dtype=np.int64)
    )
    least = float(plain.compute_ratio("macs", problem.decoder.allowed.low))
    held = replace(problem.decoder, budget={"macs": (0.9 * least, 0.9 * least)})
    genes = np.array([-0.9, -0.2, -0.8, -0.1, -0.7])
    whole = held.decode_undecomposed(held.space.make_equal_blend()._replace(transform=genes))
    assert 0 < whole.sum() < 5
    assert genes[~whole].min() > genes[whole].max()
    with pytest.raises(BudgetError, match="reachable is"):
        replace(problem.decoder, budget={"macs": (1e-4, 1e-4)})


def test_a_layer_that_costs_more_decomposed_stays_whole(problem: Problem) -> None:
    held = problem.decoder
    given_widths = held.allowed.sizes.copy()
    given_widths[2] = 1  # one channel: 9 x in x 1 whole, 9 x in + in x 1 decomposed
    narrow = replace(held, allocation_rule=given_beforehand(given_widths), budget={})
    cut = narrow.decode(held.space.make_equal_blend()._replace(transform=np.full(5, BASELINE_GENE)))
    assert problem.structure.maps.find_decomposed_layers(cut) == ("stem.0", "inner.0", "outer.0", "top.0")


def test_a_draw_flips_about_two_layers_however_many_there_are() -> None:
    rng = np.random.default_rng(0)
    for layers, flips in ((5, 1.25), (20, 2), (55, 2), (160, 2)):
        genes = BASELINE_GENE + rng.normal(0, compute_flip_step(layers), (2000, layers))
        assert (genes < 0).sum(axis=1).mean() == pytest.approx(flips, rel=0.1)


def test_a_genome_of_a_transform_is_flat_and_back(problem: Problem) -> None:
    space = problem.decoder.space
    genome = space.sample(np.random.default_rng(0))
    back = unflatten_genome(space, json.loads(json.dumps(genome.flatten())))
    assert back.flatten() == genome.flatten() and len(back.transform) == 5
    low, high = compute_bounds(space)
    assert ((low <= genome.flatten()) & (genome.flatten() <= high)).all()
    assert space.describe(genome)["transform"] == genome.transform.tolist()
    assert Genome(genome.blend, genome.share, 0.0).transform.size == 0


def decomposed_by(held: Decoder, problem: Problem) -> dict[str, tuple[str, ...]]:
    return {
        name: problem.structure.maps.find_decomposed_layers(held.decode(genome))
        for name, genome in make_baselines(held, 1)
    }


def test_seeds_decompose_no_layer_all_layers_and_as_few_as_meet_the_budget(problem: Problem) -> None:
    found = decomposed_by(problem.decoder, problem)
    assert found["l1 uniform"] == found["equal blend global"] == ()
    assert found["equal blend uniform, all depthwise"] == tuple(LAYERS)
    enough = found["equal blend uniform, enough depthwise"]
    assert 0 < len(found["equal blend uniform, half of enough depthwise"]) < len(enough) < 5
    held, maps = problem.decoder, problem.structure.maps
    whole = np.array([name not in enough for name in LAYERS])
    assert held.is_within_budget(whole, 0.0)
    assert float(held.oracle.decompose_except(whole).compute_ratio("macs", maps.sizes)) <= 0.4


@pytest.mark.parametrize(
    "optimizer", ["cma", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nsga2", "random"))]
)
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path: Path, quick: dict[str, Any], optimizer: str) -> None:
    tree = quick | {"transform": "depthwise", "budget": {"macs": 0.3}}
    tree["search"] = {"evaluations": 36, "population": 8, "optimizer": optimizer}
    first = build_problem(parse_config(tree, "here"), ignore_event)
    complete, stopped = search_with_interruption(first, tmp_path, 30)
    rows, others = list_rows(complete), list_rows(stopped)
    assert len(rows) == 37 and rows == others
    maps = first.structure.maps
    sets = {maps.find_decomposed_layers(unpack_cut(cut, maps.channels)) for _, cut, *_ in rows}
    assert len(sets) > 5


def searched(tmp_path: Path, quick: dict[str, Any], name: str, **changes: Any) -> Run:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(quick | changes))
    main(["search", str(path), "--runs", str(tmp_path), "--name", name])
    return open_run(tmp_path, name)


def exported(tmp_path: Path, name: str, what: str = "best") -> tuple[nn.Module, dict[str, Any]]:
    folder = tmp_path / f"{name}-{what}"
    main(["export", name, "--runs", str(tmp_path), "--pick", what, "--to", str(folder)])
    return blendsearch.load(folder), json.loads((folder / "network.json").read_text())


def test_a_found_network_is_shown_exported_and_loaded_as_counted(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    finals = {"picks": 1, "tuning": {"epochs": 0.2}}
    run = searched(tmp_path, quick, "one", transform="depthwise", budget={"macs": [0.1, 0.3]}, finals=finals)
    assert run.structure["layers"] == LAYERS
    row = next(
        item
        for item in reversed(run.open_store(read_only=True).read_evaluations())
        if json.loads(item.genome)["transform"]
    )
    for what in ("best", str(row.id)):  # the best was fine-tuned, and leaves so
        network, facts = exported(tmp_path, "one", what)
        assert count_macs(network, IMAGE) == facts["macs"] <= 0.3 * facts["dense"]["macs"]
        assert sum(item.numel() for item in network.parameters()) == facts["params"]
        capsys.readouterr()
        main(["show", "one", what, "--runs", str(tmp_path), "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert shown["decomposed"] == facts.get("decomposed", [])
        kinds = {name: type(network.get_submodule(name)) for name in LAYERS}
        assert {name for name, kind in kinds.items() if kind is nn.Sequential} == set(shown["decomposed"])
        assert facts["format"] == (2 if shown["decomposed"] else 1)
    main(["show", "one", "best", "--runs", str(tmp_path)])
    assert "depthwise and pointwise: " in capsys.readouterr().out
    main(["report", "one", "--runs", str(tmp_path), "--to", str(tmp_path / "one.html")])
    assert "layers are a depthwise and a pointwise one" in (tmp_path / "one.html").read_text()


def test_the_papers_way_decomposes_every_layer_and_has_its_row_in_a_comparison(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    searched(tmp_path, quick, "own", method="depthwise", budget={"macs": 0.1})
    network, facts = exported(tmp_path, "own")
    assert facts["decomposed"] == LAYERS and 0.08 <= facts["macs"] / facts["dense"]["macs"] <= 0.1
    assert count_macs(network, IMAGE) == facts["macs"]
    run = searched(tmp_path, quick, "blended", search={"evaluations": 16, "population": 8})
    capsys.readouterr()
    main(["compare", "blended", "--runs", str(tmp_path), "--seeds", "1", "--controls", "depthwise"])
    capsys.readouterr()
    main(["compare", "blended", "--runs", str(tmp_path), "--controls", "none", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    found = rows["depthwise"]["found"][0]
    assert found["macs_ratio"] < 0.25 and found["test_accuracy"] is not None
    # a search over layers is compared with controls that have them, and with peers that do not
    wide = searched(tmp_path, quick, "wide", transform="depthwise", search={"evaluations": 8, "population": 8})
    plans = {
        config.method: config.transform for _, config in plan_comparison(wide, ("random", "legr", "torch-pruning"), 1)
    }
    assert plans == {"random": "depthwise", "legr": "none", "torch-pruning": "none"}
    assert "layers" not in run.structure


@pytest.mark.parametrize(
    "decomposed", [["nowhere"], ["classifier"], ["stem.0", "stem.0"], "stem", 3, [""], ["stem"], ["__class__"], [["a"]]]
)
def test_a_description_that_names_no_convolution_is_refused(
    tmp_path: Path, quick: dict[str, Any], decomposed: Any
) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    from safetensors.torch import save_file

    dense = build_model("digits_net", {"width": 8})
    save_file(dict(dense.state_dict()), folder / "weights.safetensors")
    facts = {"format": 2, "factory": "digits_net", "arguments": {"width": 8}, "decomposed": decomposed}
    (folder / "network.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="does not fit 'digits_net'"):
        blendsearch.load(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"transform": "winograd"}, "transform"),
        ({"transform": "depthwise", "budget": {"latency": 0.5}}, "budget.latency is not known"),
        ({"transform": "depthwise", "budget": {"macs": 0.5, "memory": 0.5}}, "budget.memory is not known"),
        ({"transform": "depthwise", "method": "cfbs"}, "method cfbs decomposes no layers"),
        ({"transform": "none", "method": "depthwise"}, "method depthwise decomposes layers"),
        ({"allocation": "evolved", "method": "depthwise"}, "leave allocation uniform"),
        ({"budget": {"macs": [0.2, 0.5]}, "method": "depthwise"}, "searches at one budget"),
    ],
)
def test_what_does_not_go_together_is_refused(quick: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(quick | changes, "here")
