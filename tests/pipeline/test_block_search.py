"""Searches that also decide which blocks are removed: resumable, exported, loaded, and refused where unknown."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from refits import make_random_splits
from resumed_search import list_rows, search_with_interruption
from torch import nn

import blendsearch
from blendsearch.cli.main import main
from blendsearch.errors import ConfigError, ModelError, RunError
from blendsearch.events import ignore_event
from blendsearch.pipeline.control_runs import plan_comparison
from blendsearch.pipeline.problem.assembly import trace_network
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.config.block_removal_rules import removes_blocks
from blendsearch.runs.config.loading import parse_config, parse_stored_config
from blendsearch.runs.run import Run, open_run
from blendsearch.structure.cost import count_macs
from blendsearch.structure.removed_layers import RemovedLayer
from blendsearch.zoo.factory import build_model

IMAGE = torch.zeros(1, 1, 8, 8)
REMOVED = {"inner.0": 0, "inner.1": 0}


def make_tree(quick: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return quick | {"search": {"evaluations": 28, "population": 8, "blocks": True}} | changes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("blocks")
    tree = make_tree(small_config, finals={"picks": 1, "tuning": {"epochs": 0.5}}, budget={"macs": 0.4, "round_to": 1})
    tree["fitness"] = {**tree["fitness"], "repair": "refit"}
    (folder / "config.yaml").write_text(json.dumps(tree))
    main(["search", str(folder / "config.yaml"), "--runs", str(folder), "--name", "one"])
    return folder, open_run(folder, "one")


def select_rows(run: Run, *, removed: bool) -> list[Any]:
    with run.open_store(read_only=True) as store:
        rows = store.read_evaluations()
    evolved = [row for row in rows if row.genome != "{}"]  # without the dense network
    return [row for row in evolved if (json.loads(row.genome).get("blocks", [0])[0] > 0) == removed]


def test_networks_with_and_without_the_block_are_evaluated(found: tuple[Path, Run]) -> None:
    _, run = found
    (block,) = run.structure["blocks"]
    assert block["groups"] == ["inner.0"] and block["layers"].keys() == {"inner.0", "inner.1", "outer.0"}
    removed, kept = (select_rows(run, removed=flag) for flag in (True, False))
    assert removed and kept and not any(row.failure for row in [*removed, *kept])
    assert all(row.macs <= 0.4 * run.structure["dense"]["macs"] for row in [*removed, *kept])


@pytest.mark.parametrize("removed", [True, False])
def test_a_network_is_exported_and_loaded_as_counted(
    found: tuple[Path, Run], removed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = found
    row = select_rows(run, removed=removed)[-1]
    to = folder / f"network-{removed}"
    main(["export", "one", "--runs", str(folder), "--pick", str(row.id), "--to", str(to), "--onnx"])
    network, facts = blendsearch.load(to), json.loads((to / "network.json").read_text())
    assert count_macs(network, IMAGE) == facts["macs"] == row.macs
    assert sum(item.numel() for item in network.parameters()) == facts["params"] == row.params
    assert isinstance(network.get_submodule("outer.0"), RemovedLayer) == removed
    assert facts["format"] == (4 if removed else 1) and ("removed" in facts) == removed
    if removed:
        made = network.get_submodule("outer.0").channels
        assert facts["kept"]["inner.0"] == [] and facts["removed"] == {**REMOVED, "outer.0": made}
    capsys.readouterr()
    main(["show", "one", str(row.id), "--runs", str(folder), "--json"])
    kept = {group["group"]: group["kept"] for group in json.loads(capsys.readouterr().out)["groups"]}
    assert (kept["inner.0"] == 0) == removed
    main(["show", "one", str(row.id), "--runs", str(folder)])
    main(["report", "one", "--runs", str(folder), "--to", str(folder / f"{removed}.html")])


def test_the_trained_best_network_is_exported(found: tuple[Path, Run]) -> None:
    folder, run = found
    main(["export", "one", "--runs", str(folder), "--pick", "best", "--to", str(folder / "best")])
    network = blendsearch.load(folder / "best")
    assert count_macs(network, IMAGE) <= 0.4 * run.structure["dense"]["macs"]


def test_an_interrupted_search_resumes_to_the_same_end(tmp_path: Path, quick: dict[str, Any]) -> None:
    first = build_problem(parse_config(make_tree(quick), "here"), ignore_event)
    complete, stopped = search_with_interruption(first, tmp_path, 22)
    assert list_rows(complete) == list_rows(stopped)
    assert len({json.loads(row[3])["blocks"][0] > 0 for row in list_rows(complete) if row[3] != "{}"}) == 2


def test_other_blocks_than_those_of_a_run_are_refused(found: tuple[Path, Run]) -> None:
    folder, run = found
    facts = json.loads((run.path / "run.json").read_text())
    damaged = open_run(folder, "one")
    facts["structure"]["blocks"][0]["groups"] = ["outer.0"]
    object.__setattr__(damaged, "structure", facts["structure"])
    with pytest.raises(RunError, match="found other groups"):
        restore(damaged)


def test_auto_removes_blocks_for_latency_alone(quick: dict[str, Any]) -> None:
    def removes(**changes: Any) -> bool:
        return removes_blocks(parse_config(quick | changes, "here"))

    latency = {"budget": {"latency": 0.5}}
    assert removes(**latency) and not removes()
    assert not removes(budget={"latency": 0.5, "memory": 0.5})
    assert not removes(**latency, allocation="uniform")
    assert not removes(**latency, finals={"stages": 2})
    assert not removes(**latency, search={"blocks": False})
    assert removes(search={"blocks": True})
    stored = {**quick, **latency, "search": {"evaluations": 8}}  # of a version without blocks
    assert not removes_blocks(parse_stored_config(stored, "here"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transform": "depthwise"}, "leave out transform"),
        ({"budget": {"keep": 0.5}}, "leave out allocation and budget.keep"),
        ({"allocation": "uniform"}, "leave out allocation"),
        ({"budget": {"macs": 0.5, "memory": 0.5}}, "leave out budget.memory"),
        ({"finals": {"stages": 3}}, "leave out finals.stages"),
        ({"training": {"elastic": {"epochs": 1}}}, "leave out training.elastic"),
        ({"method": "sensitivity"}, "method sensitivity cannot"),
    ],
)
def test_blocks_and_what_does_not_know_them_are_refused(
    quick: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_config(make_tree(quick, **changes), "here")


def test_a_network_without_blocks_is_refused(quick: dict[str, Any]) -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(ConfigError, match="no block of Sequential has a bypass"):
        trace_network(parse_config(make_tree(quick), "here"), chain, make_random_splits((3, 8, 8)))


def test_controls_that_cannot_remove_blocks_keep_them(found: tuple[Path, Run]) -> None:
    plans = {config.method: config.search.blocks for _, config in plan_comparison(found[1], ("random", "legr"), 1)}
    assert plans == {"random": True, "legr": False}


@pytest.mark.parametrize(
    "removed", [{"nowhere": 1}, {"inner.1": 3}, ["inner.0"], {"": 1}, {"outer.0": -1}, {"outer.0": True}, {"inner": 1}]
)
def test_a_description_that_removes_no_layer_is_refused(tmp_path: Path, removed: Any) -> None:
    from safetensors.torch import save_file

    dense: nn.Module = build_model("digits_net", {"width": 8})
    save_file(dict(dense.state_dict()), tmp_path / "weights.safetensors")
    facts = {"format": 4, "factory": "digits_net", "arguments": {"width": 8}, "removed": removed}
    (tmp_path / "network.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="does not fit 'digits_net'"):
        blendsearch.load(tmp_path)
