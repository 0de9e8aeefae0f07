"""Importance of criteria and groups: correlations against SciPy and a brute force, and runs that have none."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from blendsearch.blend.clustering import merge_clusters
from blendsearch.cli.main import main
from blendsearch.results import importance
from blendsearch.results.importance import correlate_ranks, describe_importance, measure_importance
from blendsearch.results.network import make_group_reader
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run, open_run
from blendsearch.runs.store import Store


def test_a_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    loss = rng.integers(0, 12, 40).astype(float)  # with ties
    values = np.vstack([loss + rng.normal(0, 4, 40), -loss, np.full(40, 0.3)])
    found = correlate_ranks(values, loss, np.zeros((0, 40)))
    assert found[0] == pytest.approx(spearmanr(values[0], loss).statistic)
    assert found[1] == pytest.approx(-1) and np.isnan(found[2])


def test_at_equal_cost_it_is_the_partial_correlation() -> None:
    rng = np.random.default_rng(1)
    cost = rng.random(300)
    loss = 1 - cost + rng.normal(0, 0.1, 300)
    values = np.vstack([cost + rng.normal(0, 0.1, 300), 2 * cost, rng.normal(size=300) - loss - cost])
    (own, copy, related) = correlate_ranks(values, loss, cost[None])
    assert spearmanr(values[0], loss).statistic < -0.8 and abs(own) < 0.12  # all of it goes through the cost
    assert np.isnan(copy)
    xy, xz, yz = (spearmanr(*pair).statistic for pair in ((values[2], loss), (values[2], cost), (loss, cost)))
    assert related == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def read_rows(run: Run) -> list[Evaluation]:
    with run.open_store(read_only=True) as store:
        return [row for row in store.read_evaluations() if row.id and not row.failure]


def test_a_run_is_measured_as_a_brute_force_does(searched: Path) -> None:
    run = open_run(searched, "one")
    rows, found = read_rows(run), measure_importance(run)
    groups = [make_group_reader(run)(row) for row in rows]
    loss = [row.loss for row in rows]
    best = sorted(range(len(rows)), key=lambda place: (loss[place], rows[place].id))[: found.best]
    assert (found.evaluations, found.networks, found.best, found.equal_costs) == (len(rows), len(rows), 5, ())
    for number, name in enumerate(item.group for item in groups[0]):
        kept = [item[number].kept_ratio for item in groups]
        (row,) = (item for item in found.groups if item.group == name)
        assert row.rho == pytest.approx(spearmanr(kept, loss).statistic)
        assert row.best_kept == pytest.approx(np.mean([kept[place] for place in best]))
        assert row.mean_kept == pytest.approx(np.mean(kept))

    def compute_part(network: list[Any], names: tuple[str, ...]) -> float:
        return float(np.mean([sum(item.part for item in group.blend if item.criterion in names) for group in network]))

    assert {row.members[0] for row in found.criteria} == set(run.structure["criteria"])
    names = run.structure["criteria"]
    merged = {tuple(names[row] for row in members) for members in merge_clusters(run.structure["clusters"], len(names))}
    assert {row.members for row in found.clusters} in (merged, set())
    for row in (*found.criteria, *found.clusters):
        parts = [compute_part(network, row.members) for network in groups]
        assert row.rho == pytest.approx(spearmanr(parts, loss).statistic)
        assert row.best_part == pytest.approx(np.mean([parts[place] for place in best]))
    for rows_found in (found.criteria, found.clusters, found.groups):
        strengths = [abs(row.rho or 0) for row in rows_found]
        assert strengths == sorted(strengths, reverse=True)


def test_a_planted_criterion_and_layer_are_the_first(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "runs")
    run = open_run(tmp_path / "runs", "one")
    read = make_group_reader(run)
    with sqlite3.connect(run.path / "run.sqlite") as connection:
        for row in read_rows(run):
            groups = read(row)
            part = sum(item.part for item in groups[0].blend or () if item.criterion == "apoz")
            loss = 2 - groups[1].kept_ratio - 0.05 * part
            connection.execute("UPDATE evaluations SET loss = ? WHERE id = ?", (loss, row.id))
    found = measure_importance(run)
    assert found.groups[0].group == run.structure["groups"][1]["name"]
    assert found.groups[0].rho is not None and found.groups[0].rho < -0.8
    assert "below 0, networks with more of it had a lower loss" in describe_importance(found)


def test_runs_without_blends_or_with_few_networks_show_nothing(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(searched, tmp_path / "runs")
    run = open_run(tmp_path / "runs", "one")
    with sqlite3.connect(run.path / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET genome = '{}'")
    found = measure_importance(run)
    assert found.criteria == found.clusters == () and found.groups
    with sqlite3.connect(run.path / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET cut = (SELECT cut FROM evaluations WHERE id = 1)")
    monkeypatch.setattr(Store, "_check_evaluations", lambda store, rows, cuts: None)
    assert measure_importance(run).groups == ()  # all networks have the same widths
    monkeypatch.setattr(importance, "MIN_NETWORKS", 1000)
    assert measure_importance(run).to_dict()["networks"] == 0


def test_the_report_has_the_importance(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["report", "one", "--runs", str(searched), "--to", str(tmp_path / "page.html"), "--json"])
    printed = json.loads(capsys.readouterr().out)["importance"]
    assert printed == measure_importance(open_run(searched, "one")).to_dict()
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Importance of criteria and layers" in text and "rank correlation with the validation loss" in text
    assert text.index('href="#importance"') < text.index('id="importance"')
