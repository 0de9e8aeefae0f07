"""The figures of the report about the whole search: the front, the way to it, the controls, the criteria."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blendsearch.blend.correlation_map import CorrelationMap
from blendsearch.results.formatting import share
from blendsearch.results.history import ORDER, Course, by_kind, called, highest
from blendsearch.results.report.criteria_map import letter, signed
from blendsearch.results.report.svg import Drawing, Scale, frame, percent, plain
from blendsearch.runs.origin import IN_BEST
from blendsearch.runs.records import Evaluation

WIDTH, HEIGHT = 780.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 34.0, 52.0

SHAPES = dict(
    zip(ORDER, (("diamond", "single"), ("square", "equal"), ("triangle", "third"), ("cross", "fourth")), strict=True)
)
OTHER_SHAPE = "cross", "fourth"


class Key(NamedTuple):
    """A line of a legend: the class that decides mark and colour, and what they stand for."""

    style: str
    words: str


def legend(found: Course) -> list[Key]:
    """The baselines of the first figure; at one budget with their names and errors, those above the picture too."""
    keys = []
    for kind, rows in by_kind(found).items():
        style = SHAPES.get(kind, OTHER_SHAPE)[1]
        words = f"best {kind}"
        if not found.spans:
            above = ", above the picture" if _error(rows[0]) > highest(found) else ""
            name = "" if called(rows[0]).startswith(kind) else f": {called(rows[0]).removesuffix(IN_BEST)}"
            words += f"{name}, {share(_error(rows[0]))}{above}"
        keys.append(Key(style, words))
    return keys


def front_figure(found: Course, picks: Mapping[int, str]) -> Drawing:
    """Error on validation images against cost; `picks` are names by the id of what is pointed at."""
    top = highest(found)
    description = (
        f"{len(found.judged)} pruned networks, {len(found.front)} of them on the front, from "
        f"{min(map(found.share, found.front)):.0%} to {max(map(found.share, found.front)):.0%} of {found.cost}. "
        "The numbers of the front are in the table below."
    )
    drawing = Drawing(WIDTH, HEIGHT, "front", f"Validation error against {found.cost}", description)
    shares = [found.share(row) for row in found.judged]
    x = Scale(max(0.0, min(shares) - 0.03), 1.03, LEFT, WIDTH - RIGHT)
    y = Scale(0.0 if _least(found) < 0.4 * top else _least(found) * 0.9, top, HEIGHT - BOTTOM, TOP)
    names = f"{found.cost}, share of the dense network's", "Error on validation images"
    frame(drawing, x, y, names, (percent(x.ticks(6)), percent(y.ticks())))
    for row, cost in zip(found.judged, shares, strict=True):
        _dot(drawing, row, x(cost), y, top)
    drawing.line([(x(found.share(row)), y(min(top, _error(row)))) for row in found.front], "front-line")
    for kind, rows in by_kind(found).items():
        shape, style = SHAPES.get(kind, OTHER_SHAPE)
        for row in rows:
            drawing.mark(shape, x(found.share(row)), y(_error(row)), 6, f"mark {style}", f"best {kind}: {_tip(row)}")
    for row in found.front:
        inside = _error(row) <= top
        shape, height = ("circle", _error(row)) if inside else ("triangle", top)
        tip = f"{'' if inside else 'above the picture: '}{_tip(row)}"
        drawing.mark(shape, x(found.share(row)), y(height), 3.6 if inside else 4.6, "on-front", tip)
    if found.dense is not None:
        place = x(1.0), y(_error(found.dense))
        drawing.mark("star", *place, 8, "dense", f"dense network: {_error(found.dense):.2%} error")
    for row in found.front:
        if row.id in picks:
            height = y(min(top, _error(row)))
            drawing.mark("circle", x(found.share(row)), height, 8, "ring")
            drawing.text(x(found.share(row)) + 11, height - 9, picks[row.id], "note")
    return drawing


def convergence_figure(found: Course, measure: str) -> Drawing:
    """How the search came to its best at one budget; `measure` is ``error`` or ``loss``, on validation images."""
    values = [_value(row, measure) for row in found.judged]
    top = highest(found) if measure == "error" else _room(values)
    best = found.best_so_far[-1]
    description = (
        f"{len(found.judged)} networks in the order in which they were judged. The one with the lowest validation "
        f"loss is network {best.id}: loss {best.loss:.4f}, error {best.error:.2%}."
    )
    drawing = Drawing(WIDTH, HEIGHT, measure, f"Validation {measure} by evaluation", description)
    dense = None if found.dense is None else _value(found.dense, measure)
    low = min([*values, *([] if dense is None else [dense])])
    x = Scale(0, max(1, len(values)), LEFT, WIDTH - RIGHT, whole=True)
    y = Scale(max(0.0, low - 0.08 * (top - low)), top, HEIGHT - BOTTOM, TOP)
    form = percent(y.ticks()) if measure == "error" else plain(y.ticks())
    frame(drawing, x, y, ("Evaluation", f"{measure.capitalize()} on validation images"), (lambda n: f"{n:.0f}", form))
    for place, row in enumerate(found.judged):
        _dot(drawing, row, x(place + 1), y, top, measure)
    for kind, rows in by_kind(found).items():
        for row in rows:
            if _value(row, measure) <= top:
                height = y(_value(row, measure))
                drawing.line([(LEFT, height), (WIDTH - RIGHT, height)], f"level {SHAPES.get(kind, OTHER_SHAPE)[1]}")
    if dense is not None and dense <= top:
        drawing.line([(LEFT, y(dense)), (WIDTH - RIGHT, y(dense))], "level dense")
    steps: list[tuple[float, float]] = []
    for place, row in enumerate(found.best_so_far):
        if not steps and _value(row, measure) > top and found.best_so_far[-1] is not row:
            continue  # still above the picture
        height = y(min(top, _value(row, measure)))
        if not steps or height != steps[-1][1]:
            steps += [(x(place + 1), steps[-1][1])] if steps else []
            steps.append((x(place + 1), height))
    drawing.line([*steps, (x(len(values)), steps[-1][1])], "front-line")
    return drawing


def hypervolume_figure(generations: Sequence[Mapping[str, Any]]) -> Drawing:
    """The hypervolume after every generation, against the evaluations until then."""
    done, points = 0, []
    for row in generations:
        done += row["evaluations"]
        points.append((done, float(row["summary"]["hypervolume"])))
    values = [value for _, value in points]
    description = f"From {values[0]:.4f} after {points[0][0]} evaluations to {values[-1]:.4f} after {done}."
    drawing = Drawing(WIDTH, 260, "hypervolume", "Hypervolume by evaluations", description)
    x = Scale(0, max(1, done), LEFT, WIDTH - RIGHT, whole=True)
    margin = max(0.002, 0.1 * (max(values) - min(values)))
    y = Scale(min(values) - margin, max(values) + margin, 260 - BOTTOM, TOP)
    frame(drawing, x, y, ("Evaluations", "Hypervolume"), (lambda n: f"{n:.0f}", lambda value: f"{value:.3f}"))
    drawing.line([(x(n), y(value)) for n, value in points], "front-line")
    for n, value in points:
        drawing.mark("circle", x(n), y(value), 3.6, "on-front", f"after {n} evaluations: {value:.4f}")
    return drawing


def difference_figure(rows: Sequence[Mapping[str, Any]]) -> Drawing:
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
    for value in x.ticks(6):
        drawing.line([(x(value), 8), (x(value), height - 50)], "axis" if abs(value) < 1e-9 else "grid")
        drawing.text(
            x(value),
            height - 33,
            f"{value * 100:+.3g}".replace("+0", "0") if abs(value) < 1e-9 else f"{value * 100:+.3g}",
            "tick",
            "middle",
        )
    drawing.text(
        (x.start + x.end) / 2, height - 12, "points of test accuracy; right: the run found more", "axis-name", "middle"
    )
    for number, row in enumerate(shown):
        mean, half = row["difference"]["mean"], row["difference"]["half_width"]
        level = 24 + 28 * number
        drawing.text(names, level + 4, row["name"], "tick strong", "end")
        if half is not None:
            drawing.line([(x(mean - half), level), (x(mean + half), level)], "whisker")
            for end in (mean - half, mean + half):
                drawing.line([(x(end), level - 5), (x(end), level + 5)], "whisker")
        drawing.mark("circle", x(mean), level, 5, "on-front", f"{row['name']}: {mean * 100:+.2f} points")
    return drawing


def correlation_figure(found: CorrelationMap) -> Drawing:
    """The correlations of criteria averaged over groups, in the order of clusters, a box round each."""
    names = [found.criteria[row] for row in found.order]
    n = len(names)
    cell = max(16.0, min(34.0, 520 / n))
    margin = 14 + 6.7 * max(len(name) for name in names)
    side = n * cell
    description = (
        f"{n} criteria in {len(found.clusters)} clusters. Mean correlation {signed(found.inside)} inside clusters, "
        f"{signed(found.between)} between them. The clusters are in the table below."
    )
    drawing = Drawing(margin + side + 22, margin + side + 6, "criteria", "Which criteria say the same", description)
    for i, row in enumerate(found.order):
        drawing.text(margin - 6, margin + (i + 0.5) * cell + 4, names[i], "tick", "end")
        drawing.text(margin + (i + 0.5) * cell + 4, margin - 6, names[i], "tick", "start", -90)
        for j, column in enumerate(found.order):
            value = float(found.average[row, column])
            place = margin + j * cell, margin + i * cell
            if value != value:
                drawing.box(*place, cell - 1, cell - 1, "absent", f"{names[i]}, {names[j]}: no group ranks both")
                continue
            kind = "alike" if value >= 0 else "reversed"
            tip = f"{names[i]}, {names[j]}: {signed(value)}" if i < j else ""
            drawing.box(*place, cell - 1, cell - 1, kind, tip, min(1.0, abs(value)))
            if cell >= 28:
                style = "cell strong-cell" if abs(value) > 0.55 else "cell"
                drawing.text(place[0] + cell / 2, place[1] + cell / 2 + 4, signed(value), style, "middle")
    start = 0
    for number, item in enumerate(found.clusters):
        corner, size = margin + start * cell, len(item.members) * cell
        drawing.box(corner - 0.5, corner - 0.5, size, size, "cluster")
        drawing.text(margin + side + 6, corner + size / 2 + 4, letter(number), "tick strong")
        start += len(item.members)
    return drawing


def _dot(drawing: Drawing, row: Evaluation, x: float, y: Scale, top: float, measure: str = "error") -> None:
    value = _value(row, measure)
    if value <= top:
        drawing.mark("circle", x, y(value), 2.4, "seen", _tip(row))
    else:
        drawing.mark("triangle", x, y(top) + 3, 3, "seen", f"above the picture: {_tip(row)}")


def _tip(row: Evaluation) -> str:
    return f"{row.id}: {called(row)}, {_error(row):.2%} error, loss {row.loss:.3f}"


def _room(values: Sequence[float]) -> float:
    ordered = sorted(values)
    usual = ordered[(len(ordered) - 1) * 3 // 4]
    return min(ordered[-1], ordered[0] + max(2.5 * (usual - ordered[0]), 0.01 * ordered[0])) * 1.01 + 1e-6


def _least(found: Course) -> float:
    rows = [*found.judged, *([found.dense] if found.dense else [])]
    return min(_error(row) for row in rows)


def _error(row: Evaluation) -> float:
    return 1.0 if row.error is None else row.error


def _value(row: Evaluation, measure: str) -> float:
    value = row.error if measure == "error" else row.loss
    return float("inf") if value is None else value
