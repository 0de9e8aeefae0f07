"""The figures of the report about the whole search: charts, controls, criteria."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from blendsearch.blend.correlation_map import CorrelationMap
from blendsearch.results.formatting import format_bytes
from blendsearch.results.records import MethodSummary
from blendsearch.results.report.chart import NARROW_WIDTH, WIDTH, Axis, ChartPoint, ChartSeries, FrontChart
from blendsearch.results.report.criteria_map import format_cluster_name, format_correlation
from blendsearch.results.report.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GROUND,
    HALO,
    INK,
    ON_BLUE,
    ORANGE,
    PURPLE,
    SEEN,
    SOFT,
    VERMILLION,
    WALK,
    Drawing,
    Mark,
    make_figure,
    styled,
)
from blendsearch.results.report.label_places import choose_places, make_end_box

LEFT, RIGHT, BOTTOM = 62.0, 16.0, 48.0
LEGEND_ROW, LEGEND_COLUMN = 16.0, 260.0
MAX_CURVE_MARKS = 200
"""Most points of a curve that are marked; more would hide the line."""


@dataclass(frozen=True)
class SeriesStyle:
    """How a series looks. Markers and dashes differ too, so that no colour has to be seen."""

    color: str
    marker: str = "o"
    size: float = 7.0
    filled: bool = True
    alpha: float = 1.0
    width: float = 1.6
    dashes: tuple[float, ...] = ()


STYLES = {
    "evaluated": SeriesStyle(SEEN, size=5.0, alpha=0.45),
    "newest": SeriesStyle(SEEN, size=5.5, alpha=0.95),
    "front": SeriesStyle(BLUE, width=2.0),
    "single": SeriesStyle(VERMILLION, "D", 8.0, False, dashes=(5, 2.5)),
    "equal": SeriesStyle(ORANGE, "s", 9.0, False, dashes=(1.2, 2)),
    "third": SeriesStyle(GREEN, "^", 10.0, False, dashes=(5, 2, 1.2, 2)),
    "fourth": SeriesStyle(PURPLE, "x", 9.0, False, dashes=(1.2, 1.2, 5, 1.2)),
    "dense": SeriesStyle(INK, ""),
    "final": SeriesStyle(GREEN, "P", 9.0),
    "first": SeriesStyle(BLUE, width=2.0),
    "first-evaluated": SeriesStyle(BLUE, size=4.5, alpha=0.22),
    "second": SeriesStyle(VERMILLION, "D", width=2.0, dashes=(4.5, 2.5)),
    "second-evaluated": SeriesStyle(VERMILLION, "D", size=4.5, alpha=0.22),
}
OUTSIDE_LABEL = "beyond the edge"
WALKED = ("front", "first", "second")
"""Styles of the points that the arrow keys walk along."""


@styled
def draw_chart(chart: FrontChart, *, titled: bool = False) -> Drawing:
    """Draw a chart: the one picture of a front for pages, reports, files and notebooks; `titled` for a file."""
    handles = _make_handles(chart)
    columns = max(1, int(chart.width // LEGEND_COLUMN))
    rows = math.ceil(len(handles) / columns)
    top = (28.0 if titled else 0.0) + LEGEND_ROW * rows + 30.0
    height = chart.height + top
    figure = make_figure(chart.width, height)
    inner = chart.width - LEFT - RIGHT
    axes = figure.add_axes((LEFT / chart.width, BOTTOM / height, inner / chart.width, (chart.height - BOTTOM) / height))
    _set_axes(axes, chart.x, chart.y, inner)
    marks: dict[str, Sequence[Mark]] = {}
    for number, series in enumerate(chart.series):
        marks |= _draw_series(axes, series, f"{WALK if series.style in WALKED else 'series'}-{number}", chart)
    _label_points(axes, chart)
    if handles:
        place = ((LEFT - 6) / chart.width, 1 - (28.0 if titled else 0.0) / height)
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=place, ncols=columns, frameon=False, fontsize=11,
            borderpad=0.2, borderaxespad=0, columnspacing=1.2, handletextpad=0.5, labelspacing=0.35,
        )  # fmt: skip
    if titled:
        figure.text(LEFT / chart.width, 1 - 6 / height, chart.title, fontsize=14, fontweight="bold", va="top")
    return Drawing(figure, chart.name, chart.title, chart.description, marks)


def _make_handles(chart: FrontChart) -> list[Line2D]:
    drawn = [series for series in chart.series if series.name and (series.points or series.line)]
    handles = [_make_handle(STYLES[series.style], series) for series in drawn]
    if any(not _is_inside(chart, point) for series in chart.series for point in series.points):
        style = SeriesStyle(SEEN, "^" if chart.y.falls else "v", 5.0, alpha=0.6)
        handles.append(_make_handle(style, ChartSeries(OUTSIDE_LABEL, "", (ChartPoint(None, 0, 0, ""),))))
    return handles


def _make_handle(style: SeriesStyle, series: ChartSeries) -> Line2D:
    line = bool(series.line)
    handle = Line2D([], [], label=series.name, **_choose_marker(style, style.marker if series.points else ""))
    handle.set_linestyle(_choose_dashes(style) if line else "none")
    handle.set_linewidth(style.width)
    return handle


class MarkerOptions(TypedDict):
    """Keyword arguments of a matplotlib line for its markers."""

    color: str
    alpha: float | None
    marker: str
    markersize: float
    markerfacecolor: str
    markeredgecolor: str
    markeredgewidth: float


def _choose_marker(style: SeriesStyle, marker: str) -> MarkerOptions:
    rim = GROUND if style.filled and style.alpha == 1 else style.color
    return {
        "color": style.color,
        "alpha": None if style.alpha == 1 else style.alpha,
        "marker": marker,
        "markersize": style.size,
        "markerfacecolor": style.color if style.filled else "none",
        "markeredgecolor": rim,
        "markeredgewidth": 0 if style.alpha < 1 else 1 if style.filled else 2,
    }


def _choose_dashes(style: SeriesStyle) -> Any:
    return (0, style.dashes) if style.dashes else "-"


def _is_inside(chart: FrontChart, point: ChartPoint) -> bool:
    return chart.x.contains(point.x) and chart.y.contains(point.y)


def _draw_series(axes: Axes, series: ChartSeries, gid: str, chart: FrontChart) -> dict[str, Sequence[Mark]]:
    """Draw a line and its points, those beyond the edge as triangles at it; returns the points by the artist's gid."""
    style = STYLES[series.style]
    if series.line:
        _draw_line(axes, series.line, style, chart)
    hidden = not style.marker or (series.line and len(series.points) > MAX_CURVE_MARKS)
    return {} if hidden else _draw_points(axes, series.points, style, gid, chart)


def _draw_line(axes: Axes, line: Sequence[tuple[float, float]], style: SeriesStyle, chart: FrontChart) -> None:
    vertices = [(chart.x.clamp(x), chart.y.clamp(y)) for x, y in line]
    axes.plot(*zip(*vertices, strict=True), color=style.color, lw=style.width, ls=_choose_dashes(style), clip_on=False)


def _draw_points(
    axes: Axes, points: Sequence[ChartPoint], style: SeriesStyle, gid: str, chart: FrontChart
) -> dict[str, Sequence[Mark]]:
    """Draw the points inside, and triangles at the edge for the others."""
    above, below = replace(style, marker="^", filled=True), replace(style, marker="v", filled=True)
    found: dict[str, Sequence[Mark]] = {}
    for part, look in (("in", style), ("high", above), ("low", below)):
        shown = [point for point in points if _locate_point(chart, point) == part]
        if shown:
            name = f"{gid}-{part}"
            prefix = "" if part == "in" else f"{OUTSIDE_LABEL}: "
            found[name] = [Mark(f"{prefix}{point.tip}", point.id) for point in shown]
            xs = [chart.x.clamp(point.x) for point in shown]
            ys = [chart.y.clamp(point.y) for point in shown]
            axes.plot(xs, ys, ls="none", gid=name, clip_on=False, **_choose_marker(look, look.marker))
    return found


def _locate_point(chart: FrontChart, point: ChartPoint) -> str:
    """Return ``in`` for a point inside the axes, else the edge it is drawn at: ``high`` or ``low``."""
    if _is_inside(chart, point):
        return "in"
    return "high" if point.y > chart.y.high else "low"


def _label_points(axes: Axes, chart: FrontChart) -> None:
    width, height = chart.width - LEFT - RIGHT, chart.height - BOTTOM

    def locate(x: float, y: float) -> tuple[float, float]:
        """Return the place of a point in user units from the lower left corner of the axes."""
        return width * _compute_share(chart.x, chart.x.clamp(x)), height * _compute_share(chart.y, chart.y.clamp(y))

    labelled = [point for series in chart.series for point in series.points if point.label]
    named = [series for series in chart.series if series.label and series.line]
    taken = [make_end_box(series.label, *locate(*series.line[-1])) for series in named]
    places = choose_places([(point.label, *locate(point.x, point.y)) for point in labelled], taken, width + RIGHT)
    for number, (point, offset) in enumerate(zip(labelled, places, strict=True)):
        axes.annotate(
            point.label, (chart.x.clamp(point.x), chart.y.clamp(point.y)), (offset.x, offset.y),
            textcoords="offset points", ha=offset.align, fontweight="bold", gid=f"{HALO}-{number}",
            annotation_clip=False,
        )  # fmt: skip
    for number, series in enumerate(named, len(labelled)):
        axes.annotate(
            series.label, series.line[-1], (0, 3), textcoords="offset points", ha="right", va="bottom",
            fontweight="bold", gid=f"{HALO}-{number}", annotation_clip=False,
        )  # fmt: skip


def _compute_share(axis: Axis, value: float) -> float:
    """The place of a value between the ends of its axis, from 0 to 1."""
    low, high, place = (math.log(item) if axis.log else item for item in (axis.low, axis.high, value))
    return (place - low) / (high - low)


def _set_axes(axes: Axes, x: Axis, y: Axis, width: float) -> None:
    if x.log:
        axes.set_xscale("log")
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)
    axes.set_xlabel(x.label, fontsize=12)
    axes.set_title(y.label, loc="left", fontsize=12, color=SOFT, pad=8, x=-LEFT / width + 0.02)
    if x.log:
        axes.set_xticks(_list_log_ticks(x, (1, 2, 5)) or _list_log_ticks(x, (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    else:
        ticks = min(8, round(width / 60))
        axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=x.unit == "count"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    for axis, unit in ((axes.xaxis, x.unit), (axes.yaxis, y.unit)):
        if unit == "share":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}\N{NO-BREAK SPACE}%"))
        elif unit == "count":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        elif unit == "bytes":
            axis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, lw=1)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)


def _list_log_ticks(axis: Axis, steps: Sequence[float]) -> list[float]:
    """List the ticks of a logarithmic axis in `steps` of each power of ten; empty where there are fewer than three."""
    values = (step * 10.0**power for power in range(-4, 12) for step in steps)
    found = [value for value in values if axis.low <= value <= axis.high]
    return found if len(found) > 2 or len(steps) > 3 else []


@styled
def draw_difference_figure(rows: Sequence[MethodSummary], metric: str = "accuracy", *, narrow: bool = False) -> Drawing:
    """Draw how many points more the run has than each control, on test images, with confidence intervals if known."""
    shown = [
        (row.name, 100 * row.difference.mean, 100 * (row.difference.half_width or 0.0))
        for row in rows
        if row.difference is not None and row.difference.mean is not None
    ]
    names = 14.0 + max(6.8 * len(name) for name, _, _ in shown)
    height = 70.0 + 28 * len(shown)
    width = NARROW_WIDTH if narrow else WIDTH
    figure = make_figure(width, height)
    axes = figure.add_axes((names / width, 50 / height, (width - names - 24) / width, (height - 58) / height))
    marks: dict[str, Sequence[Mark]] = {}
    for number, (name, mean, half) in enumerate(shown):
        if half:
            axes.errorbar(mean, number, xerr=half, color=INK, capsize=5, lw=1.5, capthick=1.5)
        axes.plot(mean, number, "o", ms=10, color=BLUE, markeredgecolor=GROUND, gid=f"difference-{number}")
        marks[f"difference-{number}"] = [Mark(f"{name}: {mean:+.2f} points")]
    reach = 1.1 * max(0.1, *(abs(end) for end in axes.get_xlim()))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), [name for name, _, _ in shown], color=INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else f"{value:+.3g}"))
    axes.set_xlabel(f"points of test {metric}; right: this run is better")
    axes.axvline(0, color=SOFT, lw=1, zorder=0)
    axes.grid(axis="x", color=FAINT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    name = "narrow-differences" if narrow else "differences"
    return Drawing(figure, name, "Difference on test images", "The table below has the numbers.", marks)


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: how much of its colour it has, from 0 to 1, a text inside, and its tooltip."""

    color: str
    strength: float = 1.0
    tip: str = ""
    text: str = ""


@dataclass(frozen=True)
class Grid:
    """Cells in rows and columns, laid out in user units: `left` and `top` are the room for the names."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]
    width: float
    height: float
    left: float
    top: float
    right: float = 2.0
    bottom: float = 2.0
    text_size: float = 12.0


def draw_grid(grid: Grid) -> tuple[Figure, Axes, dict[str, Sequence[Mark]]]:
    """Draw the cells, with the names of rows on the left and of columns above; cell (0, 0) is centred at (0, 0)."""
    figure = make_figure(grid.width, grid.height)
    inner = grid.width - grid.left - grid.right, grid.height - grid.top - grid.bottom
    axes = figure.add_axes(
        (grid.left / grid.width, grid.bottom / grid.height, inner[0] / grid.width, inner[1] / grid.height)
    )
    gap = len(grid.cells[0]) / inner[0], len(grid.cells) / inner[1]
    marks: dict[str, Sequence[Mark]] = {}
    for row, cells in enumerate(grid.cells):
        for column, cell in enumerate(cells):
            box = Rectangle((column - 0.5, row - 0.5), 1 - gap[0], 1 - gap[1], color=cell.color, lw=0)
            box.set_alpha(None if cell.strength >= 1 else max(0.01, round(cell.strength, 2)))
            axes.add_artist(box)
            if cell.tip:
                box.set_gid(f"cell-{row}-{column}")
                marks[f"cell-{row}-{column}"] = [Mark(cell.tip)]
            if cell.text:
                color = ON_BLUE if cell.strength > 0.55 else INK
                axes.text(column, row, cell.text, ha="center", va="center", fontsize=10.5, color=color)
    axes.set_xlim(-0.5, len(grid.cells[0]) - 0.5)
    axes.set_ylim(len(grid.cells) - 0.5, -0.5)
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=grid.text_size)
    axes.set_xticks([])
    for column, name in enumerate(grid.columns):
        axes.annotate(
            name, (column, -0.5), (0, 6), textcoords="offset points", rotation=90, rotation_mode="anchor", ha="left",
            va="center", fontsize=grid.text_size, color=SOFT, annotation_clip=False,
        )  # fmt: skip
    axes.tick_params(length=0, pad=6)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes, marks


@styled
def draw_correlation_figure(criteria_map: CorrelationMap) -> Drawing:
    """The correlations of criteria averaged over groups, in the order of clusters, a box round each."""
    names = [criteria_map.criteria[row] for row in criteria_map.order]
    cell = max(16.0, min(34.0, 520 / len(names)))
    margin = 14 + 6.7 * max(len(name) for name in names)
    side = len(names) * cell
    cells = [
        [_make_correlation_cell(criteria_map, i, j, cell >= 28) for j in criteria_map.order] for i in criteria_map.order
    ]
    figure, axes, marks = draw_grid(
        Grid(names, names, cells, margin + side + 24, margin + side + 4, margin, margin, 24.0, 4.0)
    )
    start = 0
    for number, item in enumerate(criteria_map.clusters):
        size = len(item.members)
        axes.add_artist(
            Rectangle((start - 0.52, start - 0.52), size, size, fill=False, ec=INK, lw=2, zorder=3, clip_on=False)
        )
        name = format_cluster_name(number)
        axes.text(len(names) - 0.5 + 6 / cell, start + size / 2 - 0.5, name, va="center", fontweight="bold")
        start += size
    description = (
        f"{len(names)} criteria in {len(criteria_map.clusters)} clusters. Mean correlation "
        f"{format_correlation(criteria_map.mean_inside)} inside clusters, "
        f"{format_correlation(criteria_map.mean_between)} between them. The clusters are in the table below."
    )
    return Drawing(figure, "criteria", "Criteria that rank channels alike", description, marks)


def _make_correlation_cell(criteria_map: CorrelationMap, i: int, j: int, numbered: bool) -> Cell:
    value = float(criteria_map.average[i, j])
    names = f"{criteria_map.criteria[i]}, {criteria_map.criteria[j]}"
    if math.isnan(value):
        return Cell(FAINT, 1.0, f"{names}: no group ranks both")
    text = format_correlation(value)
    return Cell(BLUE if value >= 0 else VERMILLION, min(1.0, abs(value)), f"{names}: {text}", text if numbered else "")


def shorten_names(names: Iterable[str]) -> list[str]:
    """Names of at most 24 letters; the end identifies the layer."""
    return [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]
