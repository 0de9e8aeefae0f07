"""A search with a ladder: networks are trained during the search, on the schedule of the finals."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from verbs import refused

from blendsearch.cli.main import main
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.results.ladder_records import FinalsNoise
from blendsearch.results.ladder_summary import compare_with_noise, format_noise
from blendsearch.results.summary import summarize_run
from blendsearch.runs.config.ladder_plan import make_plan
from blendsearch.runs.origin import Origin
from blendsearch.runs.records import Evaluation, FinalResult, RungResult
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut

LADDER = {
    "data": {"dataset": "digits", "val_size": 0.3, "train_limit": 256},
    "finals": {"tuning": {"epochs": 2, "rate": 0.05, "batch_size": 32}},
    "ladder": {"rungs": [0.1, 0.5], "cost": 4.5},
    "search": {"evaluations": 24, "population": 8},
}


def write(path: Path, tree: dict[str, Any], **changed: Any) -> Path:
    path.write_text(yaml.safe_dump(tree | LADDER | changed))
    return path


def search(config: Path, runs: Path, name: str, *words: str) -> None:
    main(["search", str(config), "--runs", str(runs), "--name", name, *words])


def read(runs: Path, name: str) -> tuple[list[Evaluation], list[RungResult], list[FinalResult]]:
    with open_run(runs, name).open_store(read_only=True) as store:
        return store.read_evaluations(), store.read_rungs(), store.read_finals()


def forget_seconds(rows: list[Any]) -> list[Any]:
    return sorted(row._replace(seconds=0.0) for row in rows)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory, small_config: dict[str, Any]) -> Path:
    """Make a folder with a finished run with a ladder, ``one``."""
    folder = tmp_path_factory.mktemp("climbed")
    search(write(folder / "config.yaml", small_config), folder / "runs", "one")
    return folder / "runs"


def test_networks_climb_as_planned(climbed: Path) -> None:
    run = open_run(climbed, "one")
    evaluations, rungs, finals = read(climbed, "one")
    plan = make_plan(run.config.ladder, 1)
    counts = Counter(item.rung for item in rungs)
    assert [counts[rung] for rung in (1, 2, 3)] == list(plan.sizes)
    origins = {row.digest: Origin.parse(row.origin) for row in evaluations}
    is_rule = {digest: origin.is_baseline and not origin.in_best_allocation for digest, origin in origins.items()}
    assert sum(is_rule[item.digest] for item in rungs if item.rung == 1) == plan.rules
    last = [item for item in rungs if item.rung == plan.last]
    assert {(item.digest, item.loss) for item in last} == {(item.digest, item.loss) for item in finals}
    assert {is_rule[item.digest] for item in last} == {False, True}
    dense = run.structure["dense"]["macs"]
    assert sum(item.cost for item in rungs) <= plan.cost * 3 * dense * 0.5 * 256 * 2
    assert not (run.path / "training").exists()


def test_a_network_that_climbs_is_trained_once(climbed: Path) -> None:
    """The final network is bit for bit the one of a training without rungs."""
    run = open_run(climbed, "one")
    problem = restore(run)
    evaluations, _, finals = read(climbed, "one")
    final = finals[0]
    (cut,) = [unpack_cut(row.cut, problem.structure.maps.channels) for row in evaluations if row.digest == final.digest]
    request = make_request(cut, "final", run.config.seed, "both")._replace(return_weights=True)
    outcome = problem.evaluator.evaluate(request)
    assert (outcome.loss, outcome.error, outcome.test) == (final.loss, final.error, (final.test_loss, final.test_error))
    assert outcome.weights is not None
    stored = run.read_weights(final.digest, 0)
    assert all((stored[name] == array).all() for name, array in outcome.weights.items())


def test_the_best_network_is_the_best_finalist(climbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, finals = read(climbed, "one")
    main(["export", "one", "--to", str(climbed / "out"), "--runs", str(climbed), "--json"])
    exported = json.loads(capsys.readouterr().out)
    best = min(finals, key=lambda item: (item.error, item.loss))
    assert abs(exported["val_loss"] - best.loss) < 1e-4


def test_costs_are_counted_and_shown(climbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_run(climbed, "one")
    plan = make_plan(run.config.ladder, 1)
    record = summarize_run(run).ladder
    assert record is not None
    expected = [(share, size, 0) for share, size in zip(plan.shares, plan.sizes, strict=True)]
    assert [(item.share, item.networks, item.failed) for item in record.rungs] == expected
    cost, dense = record.cost, run.structure["dense"]["macs"]
    assert plan.compute_cost() * 0.97 <= cost.trainings <= plan.compute_cost() <= cost.limit == 4.5
    # 24 networks at half the dense cost, each on 269 validation images and 128 for recalibration
    assert cost.evaluations == pytest.approx(24 * 0.5 * dense * (269 + 128), rel=0.03)
    pairs = [(item.cheaper, item.dearer, item.networks) for item in summarize_run(run).fidelities]
    names = ["recalibrated", "rung 1", "rung 2", "final"]
    assert pairs == list(zip(names[:-1], names[1:], plan.sizes, strict=True))
    assert cost.probes == cost.further_seeds == 0
    assert cost.rungs + cost.finals == pytest.approx(cost.trainings * cost.one_training)
    sentence = f"{plan.sizes[0]} at 10%, {plan.sizes[1]} at 50%, {plan.sizes[2]} at 100%"
    for words in (["front", "one", "--all"], ["status", "one"], ["report", "one", "--to", str(climbed / "one.html")]):
        capsys.readouterr()
        main([*words, "--runs", str(climbed)])
        assert sentence in capsys.readouterr().out
    main(["status", "one", "--runs", str(climbed), "--json"])
    assert json.loads(capsys.readouterr().out)["ladder"]["cost"]["limit"] == 4.5


def test_a_finished_ladder_is_extended_where_its_cost_is_raised(
    climbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(climbed / "one", tmp_path / "one")
    before = read(tmp_path, "one")
    words = ["resume", "one", "--runs", str(tmp_path), "--set"]
    for change in ("ladder.rungs=[0.2]", "ladder.keep=0.5", "finals.tuning.rate=0.1", "finals.probe.epochs=3"):
        assert "cannot be changed" in refused(capsys, "resume", tmp_path, "one", "--set", change)
    main([*words, "search.evaluations=32"])
    after = read(tmp_path, "one")
    assert len(after[0]) == 33 and forget_seconds(after[1]) == forget_seconds(before[1]) and after[2] == before[2]
    main([*words, "ladder.cost=6", "--set", "ladder.finalists=4"])
    last = read(tmp_path, "one")
    assert len(last[2]) == 4 and set(before[1]) < set(last[1]) and set(before[2]) < set(last[2])
    main([*words, "finals.seeds=2"])
    assert Counter(item.repeat for item in read(tmp_path, "one")[2]) == {0: 4, 1: 4}


@pytest.mark.slow
def test_a_ladder_killed_by_the_system_ends_bit_for_bit_the_same(
    climbed: Path, tmp_path: Path, small_config: dict[str, Any]
) -> None:
    config = write(tmp_path / "config.yaml", small_config, training={"checkpoint_seconds": 0.02})
    words = ["search", str(config), "--runs", str(tmp_path), "--name", "one", "--or-resume", "--json"]
    for kind, count in (("rung", 3), ("final", 1)):
        process = subprocess.Popen([sys.executable, "-m", "blendsearch", *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += json.loads(line).get("event") == kind
            if seen == count:
                time.sleep(0.05)  # into the next training
                process.kill()
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    main(words)
    (rows, rungs, finals), (others, whole_rungs, whole_finals) = read(tmp_path, "one"), read(climbed, "one")
    assert forget_seconds(rungs) == forget_seconds(whole_rungs)
    assert forget_seconds(finals) == forget_seconds(whole_finals)
    assert [(row.digest, row.loss) for row in rows] == [(row.digest, row.loss) for row in others]


def test_controls_are_compared_after_training(
    climbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(climbed / "one", tmp_path / "one")
    main(["compare", "one", "--runs", str(tmp_path), "--seeds", "1", "--controls", "random,scratch-long"])
    random_rungs = read(tmp_path / "one" / "controls", "random-3")[1]
    assert max(item.rung for item in random_rungs) == 3  # random networks climb the same ladder
    assert not (tmp_path / "one" / "controls" / "random-3" / "training").exists()
    capsys.readouterr()
    main(["compare", "one", "--runs", str(tmp_path), "--controls", "none", "--json"])
    table = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in table["methods"]}
    trained = {"blended, trained", "best rule, trained", "random, trained", "scratch-long, trained"}
    assert trained | {"blended", "random", "scratch-long"} <= rows.keys()
    own = rows["blended, trained"]["found"][0]
    best = min(read(tmp_path, "one")[2], key=lambda item: (item.error, item.loss))
    assert own["cut"] == best.digest and own["test_accuracy"] == pytest.approx(1 - best.test_error)
    for name in trained - {"blended, trained"}:
        other = rows[name]["found"][0]["test_accuracy"]
        assert rows[name]["difference"]["mean"] == pytest.approx(own["test_accuracy"] - other)
    assert ", trained" in table["verdict"]


def test_finals_within_noise_are_said_to_be() -> None:
    noise = FinalsNoise(networks=3, spread=0.008, standard_error=0.0126, is_within=True)
    assert format_noise(noise) == (
        "The 3 finalists are within noise (0.8 points of validation accuracy; two standard errors are 2.5): any of "
        "them, take the cheapest."
    )
    assert format_noise(None) is None and format_noise(dataclasses.replace(noise, is_within=False)) is None


def test_noise_is_two_standard_errors(climbed: Path) -> None:
    run = open_run(climbed, "one")
    finals = summarize_run(run).finals
    for lead, is_within in ((0.035, True), (0.055, False)):
        rows = [dataclasses.replace(finals[0], val_accuracy=accuracy) for accuracy in (0.9, 0.9 - lead)]
        noise = compare_with_noise(run, rows)
        assert noise is not None and noise.is_within == is_within
        assert noise.standard_error == pytest.approx((0.9 * 0.1 / 269) ** 0.5)


def test_a_run_of_an_earlier_version_has_no_ladder(climbed: Path, tmp_path: Path) -> None:
    shutil.copytree(climbed / "one", tmp_path / "one")
    path = tmp_path / "one" / "run.json"
    facts = json.loads(path.read_text())
    del facts["config"]["ladder"]
    path.write_text(json.dumps(facts))
    assert open_run(tmp_path, "one").config.ladder.rungs == ()


def test_a_search_without_rungs_trains_its_finals_alone(tmp_path: Path, quick: dict[str, Any]) -> None:
    tuning = {"tuning": {"epochs": 0.5, "rate": 0.05}}
    config = write(tmp_path / "config.yaml", quick, ladder={"rungs": []}, finals=tuning)
    search(config, tmp_path, "one")
    _, rungs, finals = read(tmp_path, "one")
    assert finals and not rungs
