"""A search with a ladder: networks are trained during the search, on the schedule of the finals."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from blendsearch.cli.main import main
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.persistence import restore
from blendsearch.runs.config.ladder_plan import make_plan
from blendsearch.runs.origin import Origin
from blendsearch.runs.records import Evaluation, FinalResult, RungResult
from blendsearch.runs.run import open_run
from blendsearch.structure.groups import unpack_cut

LADDER = {
    "finals": {"tuning": {"epochs": 2, "rate": 0.05, "batch_size": 64}},
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
    first = [item.digest for item in rungs if item.rung == 1]
    rules = [digest for digest in first if origins[digest].is_baseline and not origins[digest].in_best_allocation]
    assert len(rules) == plan.rules
    last = [item for item in rungs if item.rung == plan.last]
    assert {(item.digest, item.loss) for item in last} == {(item.digest, item.loss) for item in finals}
    assert {origins[item.digest].is_baseline for item in last} == {False, True}
    dense = run.structure["dense"]["macs"]
    assert sum(item.cost for item in rungs) <= plan.cost * 3 * dense * 0.5 * 629 * 2
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


def test_a_search_without_rungs_trains_its_finals_alone(tmp_path: Path, quick: dict[str, Any]) -> None:
    tuning = {"tuning": {"epochs": 0.5, "rate": 0.05}}
    config = write(tmp_path / "config.yaml", quick, ladder={"rungs": []}, finals=tuning)
    search(config, tmp_path, "one")
    _, rungs, finals = read(tmp_path, "one")
    assert finals and not rungs
