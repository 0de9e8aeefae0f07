"""A task's own metric keeps its name and direction in tables, report, charts and JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from metric_runs import METRICS, copy_with_metric

from blendsearch.cli.main import main
from blendsearch.results.report.chart import ChartOptions
from blendsearch.results.report.chart_builder import build_comparison_chart, build_front_chart
from blendsearch.results.report.chart_table import format_chart_csv
from blendsearch.results.summary import summarize_run
from blendsearch.runs.run import open_run


@pytest.fixture(scope="module")
def runs(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics") / "runs"
    for run, metric in METRICS.items():
        copy_with_metric(searched / "one", folder / run, **metric)
    return folder


def read(capsys: Any, *words: str) -> str:
    capsys.readouterr()
    main([*words])
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("run", METRICS)
def test_no_table_and_no_page_calls_it_accuracy(runs: Path, run: str, tmp_path: Path, capsys: Any) -> None:
    name, place = METRICS[run]["name"], ("--runs", str(runs))
    texts = [
        read(capsys, "front", run, *place),
        read(capsys, "front", run, "--all", *place),
        read(capsys, "show", run, "best", *place),
        read(capsys, "status", run, *place),
        read(capsys, "report", run, "--to", str(tmp_path / "page.html"), *place),
        format_chart_csv(build_front_chart(open_run(runs, run))),
    ]
    report = (tmp_path / "page.html").read_text(encoding="utf-8")
    config = report.index("<summary>Config</summary>")
    for text in (*texts, report[:config]):
        assert name in text and not re.search(r"(?<!search-)\baccura|\bacc\b", text)
    direction = "higher is better" if METRICS[run]["higher"] else "lower is better"
    assert f"{name} on validation data, {direction}" in texts[-1]
    assert f"Networks are compared by {name}: {direction}." in report


def test_values_are_those_of_the_metric(runs: Path, capsys: Any) -> None:
    rows = {run: summarize_run(open_run(runs, run)).front[0] for run in METRICS}
    assert rows["map"].val_accuracy is not None and rows["psnr"].val_accuracy is None
    loss = rows["psnr"].val_loss or 0.0
    values = {"map": f"{rows['map'].val_accuracy:.2%}", "psnr": f"{1 - loss:.4f}", "rmse": f"{loss:.4f}"}
    for run, value in values.items():
        assert value in read(capsys, "front", run, "--all", "--runs", str(runs))
        assert value in read(capsys, "show", run, str(rows[run].id), "--runs", str(runs))
        chart = build_front_chart(open_run(runs, run))
        assert chart.y.falls is not METRICS[run]["higher"]
        drawn = {point.y for series in chart.series for point in series.points if point.id == rows[run].id}
        shown = rows["map"].val_accuracy if run == "map" else 1 - loss if run == "psnr" else loss
        assert drawn and all(value == pytest.approx(shown) for value in drawn)
    with_loss = build_front_chart(open_run(runs, "map"), ChartOptions(y="loss"))
    assert with_loss.y.label == "loss on validation data"
    pair = build_comparison_chart([open_run(runs, "psnr"), open_run(runs, "psnr")])
    assert pair.y.label.startswith("PSNR")


def test_the_list_of_runs_names_each_metric(runs: Path, searched: Path, capsys: Any) -> None:
    table = read(capsys, "runs", "--runs", str(runs))
    rows = {row["run"]: row for row in json.loads(read(capsys, "runs", "--json", "--runs", str(runs)))}
    for run, metric in METRICS.items():
        assert rows[run]["metric"] == metric and (rows[run]["best_val_accuracy"] is None) is not metric["share"]
        value = rows[run]["best_metric"]
        assert f"{metric['name']} {value:.2%}" in table or f"{metric['name']} {value:.4g}" in table
    assert rows["psnr"]["best_metric"] == pytest.approx(1 - rows["rmse"]["best_metric"])
    assert "accura" not in table and "best accuracy" in read(capsys, "runs", "--runs", str(searched))
