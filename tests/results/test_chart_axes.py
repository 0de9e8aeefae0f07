"""Axes and stages of charts, on stored runs: what is drawn, its best line, and its labels."""

import shutil
from pathlib import Path

import pytest

from blendsearch.errors import RunError
from blendsearch.results.history import read_history
from blendsearch.results.report.chart import NARROW_WIDTH, ChartOptions, ChartSeries, FrontChart
from blendsearch.results.report.chart_axes import list_axes
from blendsearch.results.report.chart_builder import build_front_chart
from blendsearch.results.report.chart_table import format_chart_csv
from blendsearch.results.report.figures import draw_chart
from blendsearch.runs.run import Run, open_run

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run over a range of budgets, with long fine-tunes."""
    shutil.copytree(GOLDEN / "digits", tmp_path / "digits")
    return open_run(tmp_path, "digits")


def find_series(chart: FrontChart, style: str) -> ChartSeries:
    return next(series for series in chart.series if series.style == style)


def check_line(chart: FrontChart, values: list[tuple[float, float]], *, falls: bool) -> None:
    """Check that the line is the best of `values` at each of their places, and ends at the end of the axis."""
    line = find_series(chart, "front").line
    assert line[-1][0] >= chart.x.high and [x for x, _ in line] == sorted(x for x, _ in line)
    for place, _ in values:
        best = (min if falls else max)(y for x, y in values if x <= place)
        assert [y for x, y in line if x <= place][-1] == pytest.approx(best)


@pytest.mark.parametrize("x", ["macs", "params", "bytes"])
@pytest.mark.parametrize("y", ["accuracy", "loss"])
def test_the_line_is_the_best_of_what_is_drawn(run: Run, x: str, y: str) -> None:
    chart = build_front_chart(run, ChartOptions(x, y, stage="before"))  # type: ignore[arg-type]
    history = read_history(run)
    read = {"macs": lambda row: row.macs, "params": lambda row: row.params, "bytes": lambda row: 4 * row.params}[x]
    whole = 1 if x == "bytes" else run.structure["dense"][x]  # type: ignore[literal-required]
    values = [(read(row) / whole, row.loss if y == "loss" else 1 - row.error) for row in history.comparable]
    check_line(chart, values, falls=y == "loss")
    assert {point.id for point in find_series(chart, "front").points} == {row.id for row in history.front}
    assert chart.x.unit == ("bytes" if x == "bytes" else "share")


def test_networks_are_drawn_before_and_after_training(run: Run) -> None:
    assert list_axes(run).stages == ("both", "before", "after")
    both, before, after = (build_front_chart(run, ChartOptions(stage=stage)) for stage in ("both", "before", "after"))
    tuned = find_series(both, "final").points
    assert [point.label for point in tuned if point.label] == ["best"]
    assert "final" not in {series.style for series in (*before.series, *after.series)}
    assert {(point.id, point.x, point.y) for point in find_series(after, "evaluated").points} == {
        (point.id, point.x, point.y) for point in tuned
    }
    check_line(after, [(point.x, point.y) for point in tuned], falls=False)
    best = [point.id for point in find_series(after, "front").points if point.label == "best"]
    assert best == [point.id for point in tuned if point.label]
    labels = {point.label for point in find_series(before, "front").points}
    assert labels == {"", "best", "knee"} and find_series(before, "dense").label == "dense"


def test_a_narrow_chart_has_the_same_points(run: Run) -> None:
    wide, narrow = build_front_chart(run), build_front_chart(run, ChartOptions(narrow=True))
    assert narrow.width == NARROW_WIDTH < wide.width and narrow.series == wide.series
    assert draw_chart(narrow).to_svg().count("data-id=") == draw_chart(wide).to_svg().count("data-id=")
    rows = format_chart_csv(wide).splitlines()
    assert len(rows) == 1 + sum(len(series.points) for series in wide.series)


def test_a_measured_latency_is_only_offered_where_there_is_one(run: Run) -> None:
    assert "measured" not in list_axes(run).x
    with pytest.raises(RunError, match="no measured latencies"):
        build_front_chart(run, ChartOptions("measured"))
