"""Charts of runs as SVG, drawn once for every state of a run, however many pages show them."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from blendsearch.errors import RunError
from blendsearch.extras import require_extra
from blendsearch.results.report.chart import ChartOptions, FrontChart
from blendsearch.runs.run import Run

MAX_CHARTS = 64
"""Charts that are kept; the least recently used is dropped first."""

MAX_TIPS = 2000
"""Points up to which a chart of one run has tooltips; they would double the size of a larger one."""

ChartKind = Literal["front", "hypervolume"]
State = tuple[tuple[int, int], ...]


class ChartRequest(NamedTuple):
    """A chart of one run, or of two beside each other."""

    runs: tuple[Path, ...]
    kind: ChartKind
    options: ChartOptions


class ChartCache:
    """Draws one chart at a time, and each only when its runs have changed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._charts: OrderedDict[ChartRequest, tuple[State, str]] = OrderedDict()

    def render(self, runs: Sequence[Run], kind: ChartKind, options: ChartOptions) -> str:
        """Give the chart as SVG, with the ids of points, and up to `MAX_TIPS` points with tooltips.

        Raises RunError when there is nothing to draw.
        """
        request = ChartRequest(tuple(run.path for run in runs), kind, options)
        with self._lock:
            # read before drawing, so that later changes are drawn the next time
            state = _read_state(request.runs)
            known = self._charts.get(request)
            if known is None or known[0] != state:
                self._charts[request] = state, _draw(runs, request)
            self._charts.move_to_end(request)
            if len(self._charts) > MAX_CHARTS:
                self._charts.popitem(last=False)
            return self._charts[request][1]


def build_chart(runs: Sequence[Run], kind: ChartKind, options: ChartOptions) -> FrontChart:
    """Describe a chart of one run, or of two. Raises RunError when there is nothing to draw."""
    from blendsearch.results.report.chart_builder import (
        build_comparison_chart,
        build_front_chart,
        build_hypervolume_chart,
    )

    if kind == "hypervolume":
        return build_hypervolume_chart(runs[0], options)
    return build_comparison_chart(runs, options) if len(runs) > 1 else build_front_chart(runs[0], options)


def _draw(runs: Sequence[Run], request: ChartRequest) -> str:
    require_extra("plots", "a chart", RunError)
    # matplotlib is imported with the first chart
    from blendsearch.results.report.figures import draw_chart

    chart = build_chart(runs, request.kind, request.options)
    tips = len(runs) > 1 or sum(len(series.points) for series in chart.series) <= MAX_TIPS
    return replace(draw_chart(chart), tips=tips).to_svg(standalone=True)


def _read_state(runs: Sequence[Path]) -> State:
    """Size and time of the files that a search writes."""
    files = (path / name for path in runs for name in ("run.json", "run.sqlite", "run.sqlite-wal", "finished.json"))
    return tuple(_read_stamp(file) for file in files)


def _read_stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
