"""The figures of the report about the whole search: the front, the way to it, the controls, the criteria."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blendsearch.blend.correlation_map import CorrelationMap
from blendsearch.results.formatting import format_share
from blendsearch.results.history import (
    BASELINE_KINDS,
    SearchHistory,
    choose_error_limit,
    format_network_name,
    group_baselines,
)
from blendsearch.results.report.criteria_map import format_cluster_name, format_correlation
from blendsearch.results.report.svg import Drawing, Scale, draw_axes, make_number_formatter, make_percent_formatter
from blendsearch.runs.origin import IN_BEST
from blendsearch.runs.records import Evaluation

WIDTH, HEIGHT = 780.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 34.0, 52.0

BASELINE_SHAPES = dict(
    zip(
        BASELINE_KINDS,
        (("diamond", "single"), ("square", "equal"), ("triangle", "third"), ("cross", "fourth")),
        strict=True,
    )
)
OTHER_SHAPE = "cross", "fourth"


class LegendEntry(NamedTuple):
    """A line of a legend: the class that decides mark and colour, and what they stand for."""

    style: str
    text: str


def make_legend(history: SearchHistory) -> list[LegendEntry]:
    """The baselines of the first figure; at one budget with their names and errors, those above the picture too."""
    keys = []
    for kind, rows in group_baselines(history).items():
        style = BASELINE_SHAPES.get(kind, OTHER_SHAPE)[1]
        words = f"best {kind}"
        if not history.has_budget_range:
            above = ", above the picture" if _get_error(rows[0]) > choose_error_limit(history) else ""
            name = (
                ""
                if format_network_name(rows[0]).startswith(kind)
                else f": {format_network_name(rows[0]).removesuffix(IN_BEST)}"
            )
            words += f"{name}, {format_share(_get_error(rows[0]))}{above}"
        keys.append(LegendEntry(style, words))
    return keys


def draw_front_figure(history: SearchHistory, picks: Mapping[int, str]) -> Drawing:
    """Error on validation images against cost; `picks` are names by the id of what is pointed at."""
    top = choose_error_limit(history)
    description = (
        f"{len(history.evaluated)} pruned networks, {len(history.front)} of them on the front, from "
        f"{min(map(history.share, history.front)):.0%} to {max(map(history.share, history.front)):.0%} of "
        f"{history.cost}. "
        "The numbers of the front are in the table below."
    )
    drawing = Drawing(WIDTH, HEIGHT, "front", f"Validation error against {history.cost}", description)
    shares = [history.share(row) for row in history.evaluated]
    x = Scale(max(0.0, min(shares) - 0.03), 1.03, LEFT, WIDTH - RIGHT)
    y = Scale(
        0.0 if _find_least_error(history) < 0.4 * top else _find_least_error(history) * 0.9, top, HEIGHT - BOTTOM, TOP
    )
    names = f"{history.cost}, share of the dense network's", "Error on validation images"
    draw_axes(
        drawing, x, y, names, (make_percent_formatter(x.compute_ticks(6)), make_percent_formatter(y.compute_ticks()))
    )
    for row, cost in zip(history.evaluated, shares, strict=True):
        _draw_dot(drawing, row, x(cost), y, top)
    drawing.draw_line([(x(history.share(row)), y(min(top, _get_error(row)))) for row in history.front], "front-line")
    for kind, rows in group_baselines(history).items():
        shape, style = BASELINE_SHAPES.get(kind, OTHER_SHAPE)
        for row in rows:
            drawing.draw_mark(
                shape,
                x(history.share(row)),
                y(_get_error(row)),
                6,
                f"mark {style}",
                f"best {kind}: {_format_tooltip(row)}",
            )
    for row in history.front:
        inside = _get_error(row) <= top
        shape, height = ("circle", _get_error(row)) if inside else ("triangle", top)
        tip = f"{'' if inside else 'above the picture: '}{_format_tooltip(row)}"
        drawing.draw_mark(shape, x(history.share(row)), y(height), 3.6 if inside else 4.6, "on-front", tip)
    if history.dense is not None:
        place = x(1.0), y(_get_error(history.dense))
        drawing.draw_mark("star", *place, 8, "dense", f"dense network: {_get_error(history.dense):.2%} error")
    for row in history.front:
        if row.id in picks:
            height = y(min(top, _get_error(row)))
            drawing.draw_mark("circle", x(history.share(row)), height, 8, "ring")
            drawing.draw_text(x(history.share(row)) + 11, height - 9, picks[row.id], "note")
    return drawing


def draw_convergence_figure(history: SearchHistory, metric: str) -> Drawing:
    """How the search came to its best at one budget; `measure` is ``error`` or ``loss``, on validation images."""
    values = [_get_value(row, metric) for row in history.evaluated]
    top = choose_error_limit(history) if metric == "error" else _choose_upper_limit(values)
    best = history.best_so_far[-1]
    description = (
        f"{len(history.evaluated)} networks in the order in which they were judged. The one with the lowest validation "
        f"loss is network {best.id}: loss {best.loss:.4f}, error {best.error:.2%}."
    )
    drawing = Drawing(WIDTH, HEIGHT, metric, f"Validation {metric} by evaluation", description)
    dense = None if history.dense is None else _get_value(history.dense, metric)
    low = min([*values, *([] if dense is None else [dense])])
    x = Scale(0, max(1, len(values)), LEFT, WIDTH - RIGHT, integer=True)
    y = Scale(max(0.0, low - 0.08 * (top - low)), top, HEIGHT - BOTTOM, TOP)
    form = make_percent_formatter(y.compute_ticks()) if metric == "error" else make_number_formatter(y.compute_ticks())
    draw_axes(
        drawing, x, y, ("Evaluation", f"{metric.capitalize()} on validation images"), (lambda n: f"{n:.0f}", form)
    )
    for place, row in enumerate(history.evaluated):
        _draw_dot(drawing, row, x(place + 1), y, top, metric)
    for kind, rows in group_baselines(history).items():
        for row in rows:
            if _get_value(row, metric) <= top:
                height = y(_get_value(row, metric))
                drawing.draw_line(
                    [(LEFT, height), (WIDTH - RIGHT, height)], f"level {BASELINE_SHAPES.get(kind, OTHER_SHAPE)[1]}"
                )
    if dense is not None and dense <= top:
        drawing.draw_line([(LEFT, y(dense)), (WIDTH - RIGHT, y(dense))], "level dense")
    steps: list[tuple[float, float]] = []
    for place, row in enumerate(history.best_so_far):
        if not steps and _get_value(row, metric) > top and history.best_so_far[-1] is not row:
            continue  # still above the picture
        height = y(min(top, _get_value(row, metric)))
        if not steps or height != steps[-1][1]:
            steps += [(x(place + 1), steps[-1][1])] if steps else []
            steps.append((x(place + 1), height))
    drawing.draw_line([*steps, (x(len(values)), steps[-1][1])], "front-line")
    return drawing


def draw_hypervolume_figure(generations: Sequence[Mapping[str, Any]]) -> Drawing:
    """The hypervolume after every generation, against the evaluations until then."""
    done, points = 0, []
    for row in generations:
        done += row["evaluations"]
        points.append((done, float(row["summary"]["hypervolume"])))
    values = [value for _, value in points]
    description = f"From {values[0]:.4f} after {points[0][0]} evaluations to {values[-1]:.4f} after {done}."
    drawing = Drawing(WIDTH, 260, "hypervolume", "Hypervolume by evaluations", description)
    x = Scale(0, max(1, done), LEFT, WIDTH - RIGHT, integer=True)
    margin = max(0.002, 0.1 * (max(values) - min(values)))
    y = Scale(min(values) - margin, max(values) + margin, 260 - BOTTOM, TOP)
    draw_axes(drawing, x, y, ("Evaluations", "Hypervolume"), (lambda n: f"{n:.0f}", lambda value: f"{value:.3f}"))
    drawing.draw_line([(x(n), y(value)) for n, value in points], "front-line")
    for n, value in points:
        drawing.draw_mark("circle", x(n), y(value), 3.6, "on-front", f"after {n} evaluations: {value:.4f}")
    return drawing


def draw_difference_figure(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """How much more the run found than each control, on test images, with confidence intervals where there are any."""
    shown = [row for row in rows if row["difference"]["mean"] is not None]
    ends = [
        row["difference"]["mean"] + sign * (row["difference"]["half_width"] or 0) for row in shown for sign in (-1, 1)
    ]
    names = 9.0 + max(6.6 * len(row["name"]) for row in shown)
    height = 58.0 + 28 * len(shown) + 14
    drawing = Drawing(
        WIDTH, height, "differences", "Difference on test images", "The same numbers stand in the table below."
    )
    reach = 1.1 * max(0.001, *(abs(end) for end in ends))
    x = Scale(-reach, reach, names + 10, WIDTH - 24)
    for value in x.compute_ticks(6):
        drawing.draw_line([(x(value), 8), (x(value), height - 50)], "axis" if abs(value) < 1e-9 else "grid")
        drawing.draw_text(
            x(value),
            height - 33,
            f"{value * 100:+.3g}".replace("+0", "0") if abs(value) < 1e-9 else f"{value * 100:+.3g}",
            "tick",
            "middle",
        )
    drawing.draw_text(
        (x.start + x.end) / 2, height - 12, "points of test accuracy; right: the run found more", "axis-name", "middle"
    )
    for number, row in enumerate(shown):
        mean, half = row["difference"]["mean"], row["difference"]["half_width"]
        level = 24 + 28 * number
        drawing.draw_text(names, level + 4, row["name"], "tick strong", "end")
        if half is not None:
            drawing.draw_line([(x(mean - half), level), (x(mean + half), level)], "whisker")
            for end in (mean - half, mean + half):
                drawing.draw_line([(x(end), level - 5), (x(end), level + 5)], "whisker")
        drawing.draw_mark("circle", x(mean), level, 5, "on-front", f"{row['name']}: {mean * 100:+.2f} points")
    return drawing


def draw_correlation_figure(criteria_map: CorrelationMap) -> Drawing:
    """The correlations of criteria averaged over groups, in the order of clusters, a box round each."""
    names = [criteria_map.criteria[row] for row in criteria_map.order]
    n = len(names)
    cell = max(16.0, min(34.0, 520 / n))
    margin = 14 + 6.7 * max(len(name) for name in names)
    side = n * cell
    description = (
        f"{n} criteria in {len(criteria_map.clusters)} clusters. Mean correlation "
        f"{format_correlation(criteria_map.mean_inside)} inside clusters, "
        f"{format_correlation(criteria_map.mean_between)} between them. The clusters are in the table below."
    )
    drawing = Drawing(margin + side + 22, margin + side + 6, "criteria", "Which criteria say the same", description)
    for i, row in enumerate(criteria_map.order):
        drawing.draw_text(margin - 6, margin + (i + 0.5) * cell + 4, names[i], "tick", "end")
        drawing.draw_text(margin + (i + 0.5) * cell + 4, margin - 6, names[i], "tick", "start", -90)
        for j, column in enumerate(criteria_map.order):
            value = float(criteria_map.average[row, column])
            place = margin + j * cell, margin + i * cell
            if value != value:
                drawing.draw_box(*place, cell - 1, cell - 1, "absent", f"{names[i]}, {names[j]}: no group ranks both")
                continue
            kind = "alike" if value >= 0 else "reversed"
            tip = f"{names[i]}, {names[j]}: {format_correlation(value)}" if i < j else ""
            drawing.draw_box(*place, cell - 1, cell - 1, kind, tip, min(1.0, abs(value)))
            if cell >= 28:
                style = "cell strong-cell" if abs(value) > 0.55 else "cell"
                drawing.draw_text(
                    place[0] + cell / 2, place[1] + cell / 2 + 4, format_correlation(value), style, "middle"
                )
    start = 0
    for number, item in enumerate(criteria_map.clusters):
        corner, size = margin + start * cell, len(item.members) * cell
        drawing.draw_box(corner - 0.5, corner - 0.5, size, size, "cluster")
        drawing.draw_text(margin + side + 6, corner + size / 2 + 4, format_cluster_name(number), "tick strong")
        start += len(item.members)
    return drawing


def _draw_dot(drawing: Drawing, row: Evaluation, x: float, y: Scale, top: float, metric: str = "error") -> None:
    value = _get_value(row, metric)
    if value <= top:
        drawing.draw_mark("circle", x, y(value), 2.4, "seen", _format_tooltip(row))
    else:
        drawing.draw_mark("triangle", x, y(top) + 3, 3, "seen", f"above the picture: {_format_tooltip(row)}")


def _format_tooltip(row: Evaluation) -> str:
    return f"{row.id}: {format_network_name(row)}, {_get_error(row):.2%} error, loss {row.loss:.3f}"


def _choose_upper_limit(values: Sequence[float]) -> float:
    ordered = sorted(values)
    usual = ordered[(len(ordered) - 1) * 3 // 4]
    return min(ordered[-1], ordered[0] + max(2.5 * (usual - ordered[0]), 0.01 * ordered[0])) * 1.01 + 1e-6


def _find_least_error(history: SearchHistory) -> float:
    rows = [*history.evaluated, *([history.dense] if history.dense else [])]
    return min(_get_error(row) for row in rows)


def _get_error(row: Evaluation) -> float:
    return 1.0 if row.error is None else row.error


def _get_value(row: Evaluation, metric: str) -> float:
    value = row.error if metric == "error" else row.loss
    return float("inf") if value is None else value
