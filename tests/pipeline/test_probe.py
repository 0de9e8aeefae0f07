"""The probe: rules at several compressions, and the sentence that follows."""

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metric_runs import copy_with_metric

from blendsearch.cli.main import main
from blendsearch.cli.probe_verb import _print_probe
from blendsearch.errors import ConfigError
from blendsearch.pipeline.probe_run import _check_shares
from blendsearch.results.probe_summary import ProbedNetwork, find_recovery_limit, summarize_probe
from blendsearch.runs.compression import group_by_factor
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import open_run


def make_row(number: int, macs: int, loss: float) -> Evaluation:
    empty = dict.fromkeys(Evaluation._fields)
    return Evaluation(
        **empty
        | {"id": number, "digest": str(number), "macs": macs, "loss": loss, "failure": "", "origin": "l1 uniform"}
    )


def test_networks_are_grouped_by_the_largest_factor_that_they_meet() -> None:
    rows = [make_row(1, 50, 0.3), make_row(2, 49, 0.2), make_row(3, 33, 0.5), make_row(4, 70, 0.1)]
    groups = group_by_factor(rows, (2, 3), lambda row: row.macs / 100)
    assert {factor: [row.id for row in group] for factor, group in groups.items()} == {2: [2, 1], 3: [3]}


def make_network(factor: float, accuracy: float) -> ProbedNetwork:
    return ProbedNetwork(
        factor=factor, reached=factor, id=1, rule="l1", val_before=None, val_accuracy=accuracy, test_accuracy=0.5
    )


@pytest.mark.parametrize(
    ("accuracies", "limit"),
    [
        ({2: (0.9, 0.9), 3: (0.9, 0.85)}, 2),
        ({2: (0.9, 0.9), 3: (0.9, 0.88)}, 3),
        ({2: (0.8, 0.9), 3: (0.9, 0.9)}, None),
        ({2: (0.9,), 3: (0.7,), 4: (0.9,)}, 2),
        ({}, None),
    ],
)
def test_the_limit_is_the_last_factor_before_a_rule_fails(accuracies: dict, limit: float | None) -> None:
    networks = tuple(make_network(factor, value) for factor, values in accuracies.items() for value in values)
    assert find_recovery_limit(networks, 0.88) == limit


def probe(config: Path, folder: Path, *options: str) -> None:
    main(["probe", str(config), "--runs", str(folder), "--name", "p", "--rules", "1", *options])


def test_a_probe_trains_the_best_rule_of_each_factor_and_names_a_network(
    config_file: Path, tmp_path: Path, capsys: Any
) -> None:
    probe(config_file, tmp_path / "runs", "--factors", "2,4,5000", "--set", "finals.tuning.epochs=8", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [item["factor"] for item in found["networks"]] == [2, 4]
    assert all(item["reached"] >= item["factor"] for item in found["networks"])
    run = open_run(tmp_path / "runs", "p")
    with run.open_store(read_only=True) as store:
        rows = {row.id: row for row in store.read_evaluations()}
        finals = {item.digest for item in store.read_finals()}
    assert finals == {rows[item["id"]].digest for item in found["networks"]}
    for item in found["networks"]:  # the best of its factor by loss
        ratio = rows[item["id"]].macs / run.structure["dense"]["macs"]
        rivals = [row for row in rows.values() if row.id and 0.9 * ratio < row.macs / run.structure["dense"]["macs"]]
        assert ratio <= 1 / item["factor"] and rivals
    assert run.config.finals.tuning.epochs == 1 and run.config.method == "rules"
    if found["take"] is not None:
        assert f"take network {found['take']} now" in found["sentence"]
    main(
        [
            "export",
            "p",
            "--runs",
            str(tmp_path / "runs"),
            "--pick",
            str(found["networks"][0]["id"]),
            "--to",
            str(tmp_path / "out"),
        ]
    )
    assert (tmp_path / "out").is_dir()
    # the metric of another task keeps its name
    copy_with_metric(run.path, tmp_path / "runs" / "q", "mAP", higher=True, share=True)
    summary = summarize_probe(open_run(tmp_path / "runs", "q"), (2, 4), 100)
    capsys.readouterr()
    _print_probe(summary, Namespace(runs=tmp_path / "runs", config=None))
    output = capsys.readouterr().out
    assert summary.metric == "mAP" and found["metric"] == "accuracy"
    assert "val mAP before" in output and "dense network: validation mAP" in output and "accuracy" not in output


def test_a_probe_of_a_metric_that_is_no_share_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    closed = []
    run: Any = SimpleNamespace(path=tmp_path / "p")
    engine: Any = SimpleNamespace(close=lambda: closed.append(True))
    problem: Any = SimpleNamespace(has_error=False)
    with pytest.raises(ConfigError, match="a probe compares accuracies or another share"):
        _check_shares(run, problem, engine)
    assert closed and not (tmp_path / "p").exists()
    _check_shares(run, SimpleNamespace(has_error=True), engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--factors", "1,2"], "numbers above 1"),
        (["--factors", "two"], "numbers above 1"),
        (["--share", "0"], "a share above 0"),
        (["--set", "budget={keep: 0.5}"], "a probe needs a budgeted cost"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    config_file: Path, tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        probe(config_file, tmp_path / "runs", *options)
    assert stopped.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
