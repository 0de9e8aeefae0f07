"""The front as a picture; at one budget, where all networks cost the same, the way the search came to its best."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from blendsearch.errors import RunError
from blendsearch.results.history import ORDER, Course, by_kind, called, course, highest
from blendsearch.results.report.output_file import written
from blendsearch.results.summary import tells_error
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GREY, INK = "#8a8a8a", "#1a1a1a"
"""Okabe and Ito's colours, which the colour-blind can tell apart; shapes differ too."""

LOOKS = dict(
    zip(
        ORDER,
        ((VERMILLION, "D", "--"), (ORANGE, "s", ":"), (GREEN, "^", "-."), (PURPLE, "X", (0, (1, 1, 5, 1)))),
        strict=True,
    )
)
"""Of every kind of baseline: colour, shape, and dashes where it is a line."""
OTHER = PURPLE, "X", "-."


def draw_front(run: Run, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. Raises RunError when there is nothing to draw."""
    found = course(run)
    if not found.judged:
        raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
    # a person's own matplotlibrc must not change what is a fixed layout
    with (
        matplotlib.style.context("default"),
        matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "front"}),
    ):
        figure = Figure(figsize=(8.4, 5.2), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        (_front if found.spans else _convergence)(axes, found)
        state = "" if run.finished else ", not finished"
        title = f"{run.config.model.title} on {run.config.data.dataset}: {len(found.judged)} networks{state}"
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("error on validation images" if tells_error(run) else "stand-in that rises with the loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
        with written(path) as draft:
            kind = path.suffix[1:].lower()
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            figure.savefig(draft, format=kind, dpi=130, metadata=dates.get(kind))


def _front(axes: Axes, found: Course) -> None:
    def points(rows: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
        return [found.share(row) for row in rows], [row.error or 0.0 for row in rows]

    top = highest(found)
    axes.plot(
        *points([row for row in found.judged if (row.error or 0) <= top]),
        "o",
        color=GREY,
        ms=3,
        alpha=0.5,
        mew=0,
        label="evaluated",
    )
    _above(axes, [found.share(row) for row in found.judged if (row.error or 0) > top], top)
    for kind, rows in by_kind(found).items():
        colour, shape, _ = LOOKS.get(kind, OTHER)
        axes.plot(*points(rows), shape, color=colour, ms=7, mfc="none", mew=1.6, label=f"best {kind}")
    axes.plot(*points(found.front), "-o", color=BLUE, ms=5, lw=1.4, label="front, by loss")
    if found.dense is not None:
        axes.plot(1, found.dense.error or 0.0, "*", color=INK, ms=12, label="dense network")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=1.03 * top)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"{found.cost}, as a share of the dense network's")


def _convergence(axes: Axes, found: Course) -> None:
    top, places = highest(found), range(1, len(found.judged) + 1)
    inside = [(x, row.error) for x, row in zip(places, found.judged, strict=True) if (row.error or 0.0) <= top]
    axes.plot(*zip(*inside, strict=True), "o", color=GREY, ms=3.5, alpha=0.6, mew=0, label="evaluated")
    _above(axes, [x for x, row in zip(places, found.judged, strict=True) if (row.error or 0.0) > top], top)
    for kind, rows in by_kind(found).items():
        colour, _, dashes = LOOKS.get(kind, OTHER)
        for row in rows:
            error = row.error or 0.0
            label = f"{called(row)}: {error:.1%}{'' if error <= top else ', above the picture'}"
            if error <= top:
                axes.axhline(error, color=colour, ls=dashes, lw=1.4, label=label)
            else:
                axes.plot([], [], color=colour, ls=dashes, lw=1.4, label=label)
    axes.step(
        places,
        [row.error or 0.0 for row in found.best_so_far],
        where="post",
        color=BLUE,
        lw=2,
        label="lowest loss so far",
    )
    if found.dense is not None:
        axes.axhline(found.dense.error or 0.0, color=INK, lw=1.4, label="dense network")
    axes.set_ylim(top=top + 0.03 * (top - axes.get_ylim()[0]))
    axes.set_xlabel("evaluations")


def _above(axes: Axes, places: Sequence[float], top: float) -> None:
    """Mark at the upper edge, at these places along x, what has a larger error than the picture has room for."""
    if places:
        label = f"{len(places)} with a larger error"
        axes.plot(places, [top] * len(places), "^", color=GREY, ms=4, alpha=0.5, mew=0, label=label)
