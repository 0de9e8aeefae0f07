"""Controls at equal cost: their runs, their table, and what is said of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from known_nets import quick_on
from scipy.stats import ttest_rel

from blendsearch.cli.main import main
from blendsearch.pipeline.control_runs import plan_comparison
from blendsearch.results.comparison import compute_paired_difference
from blendsearch.results.records import PairedDifference
from blendsearch.runs.run import open_run


def test_every_control_has_the_same_budget_evaluations_and_splits(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    quick["search"]["evaluations"] = 16
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one"])
    capsys.readouterr()
    main(["compare", "one", "--runs", str(tmp_path), "--seeds", "2"])
    said = capsys.readouterr().out
    assert "over the best control" in said.splitlines()[-1] or "against the best control" in said.splitlines()[-1]
    main(["compare", "one", "--runs", str(tmp_path), "--controls", "none", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["methods"]}
    assert {"blended", "random", "legr", "torch-pruning", "single criterion", "equal blend"} <= rows.keys()
    assert found["methods"][0]["name"] == "blended" and "difference" not in found["methods"][0]
    whole = open_run(tmp_path, "one")
    for name, row in rows.items():
        assert row["seeds"] == [3, 4]
        for item in row["found"]:
            assert 0.4 <= item["macs_ratio"] <= 0.5 and item["test_accuracy"] is not None
        if name in ("blended", "random", "legr"):
            assert {item["evaluations"] for item in row["found"]} == {quick["search"]["evaluations"]}
    for run in ("random-3", "legr-4", "blended-4"):
        control = open_run(tmp_path / "one" / "controls", run)
        assert control.structure["splits"] == whole.structure["splits"]
        assert control.provenance["data_sha256"] == whole.provenance["data_sha256"]
        assert control.provenance["weights_sha256"] == whole.provenance["weights_sha256"]
    # what is there already is not searched again
    before = (tmp_path / "one" / "controls" / "random-3" / "run.sqlite").stat().st_mtime_ns
    main(["compare", "one", "--runs", str(tmp_path), "--seeds", "2", "--json"])
    assert (tmp_path / "one" / "controls" / "random-3" / "run.sqlite").stat().st_mtime_ns == before


def test_a_span_of_budgets_and_an_unknown_control_are_refused(
    tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(quick | {"budget": {"macs": [0.3, 0.5]}}))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "span", "--set", "search.evaluations=8"])
    path.write_text(yaml.safe_dump(quick))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one", "--set", "search.evaluations=8"])
    for words, says in (
        (["span"], "compare needs one budget"),
        (["one", "--controls", "magic"], "no control is called 'magic'"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *words, "--runs", str(tmp_path)])
        assert stopped.value.code == 2
        assert says in capsys.readouterr().err
    names = [name for name, _ in plan_comparison(open_run(tmp_path, "one"), ("random",), 2)]
    assert names == ["random-3", "blended-4", "random-4"]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_the_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    found = compute_paired_difference(pairs)
    one, other = np.array(pairs).T
    assert np.isclose(found.mean, (one - other).mean())
    if np.ptp(one - other) > 1e-9:
        low, high = ttest_rel(one, other).confidence_interval(0.95)
        assert np.isclose(found.half_width, (high - low) / 2)


def test_one_seed_has_no_interval() -> None:
    assert compute_paired_difference([(0.5, 0.25)]) == PairedDifference(mean=0.25, half_width=None, pairs=1)


def test_the_neighbours_are_seeds_of_a_search_and_rows_of_its_comparison(
    tmp_path: Path, quick: dict[str, Any], useless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = {"rate": 0.05, "batch_size": 64}
    tree = quick_on(quick, useless, search={"evaluations": 20, "population": 4}) | {
        "derived": {"batches": 4, "steps": 3, "tuning": {"epochs": 0.5, **tuning}},
        "tailored": {"tuning": {"epochs": 6, **tuning}},
    }
    tree["search"]["seeds"] = ["sensitivity", "derived", "tailored"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    main(["search", str(path), "--runs", str(tmp_path), "--name", "one"])
    store = open_run(tmp_path, "one").open_store(read_only=True)
    names = {name for row in store.read_evaluations() for name in row.origin.split(" = ")}
    assert {f"equal blend {name}" for name in tree["search"]["seeds"]} <= names
    assert store.read_finals() == []  # their widths are taken, their weights are not
    controls = "random,legr,sensitivity,derived,tailored"
    main(["compare", "one", "--runs", str(tmp_path), "--seeds", "1", "--controls", controls])
    capsys.readouterr()
    main(["compare", "one", "--runs", str(tmp_path), "--controls", "none", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    assert {*controls.split(","), "derived, trained", "tailored, trained"} <= rows.keys()
    for row in rows.values():
        assert row["found"][0]["macs_ratio"] <= 0.5 and row["found"][0]["test_accuracy"] is not None
    assert rows["sensitivity"]["found"][0]["evaluations"] == 1 + 13  # the curves are counted
    for name in ("derived", "tailored"):
        cut, trained = rows[name]["found"][0], rows[f"{name}, trained"]["found"][0]
        assert cut["cut"] == trained["cut"] and trained["val_accuracy"] > cut["val_accuracy"]
