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
from blendsearch.results.history import (
    BASELINE_KINDS,
    SearchHistory,
    choose_error_limit,
    format_network_name,
    group_baselines,
    read_history,
)
from blendsearch.results.report.output_file import open_draft
from blendsearch.results.summary import has_accuracy
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GREY, INK_COLOR = "#8a8a8a", "#1a1a1a"
"""Okabe and Ito's colours, which the colour-blind can tell apart; shapes differ too."""

BASELINE_STYLES = dict(
    zip(
        BASELINE_KINDS,
        ((VERMILLION, "D", "--"), (ORANGE, "s", ":"), (GREEN, "^", "-."), (PURPLE, "X", (0, (1, 1, 5, 1)))),
        strict=True,
    )
)
"""Of every kind of baseline: colour, shape, and dashes where it is a line."""
OTHER_STYLE = PURPLE, "X", "-."


def draw_front(run: Run, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. Raises RunError when there is nothing to draw."""
    found = read_history(run)
    if not found.evaluated:
        raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
    # a person's own matplotlibrc must not change what is a fixed layout
    with (
        matplotlib.style.context("default"),
        matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "front"}),
    ):
        figure = Figure(figsize=(8.4, 5.2), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        (_plot_front if found.has_budget_range else _plot_convergence)(axes, found)
        state = "" if run.finished else ", not finished"
        title = f"{run.config.model.title} on {run.config.data.dataset}: {len(found.evaluated)} networks{state}"
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("error on validation images" if has_accuracy(run) else "stand-in that rises with the loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.legend(framealpha=0.9, edgecolor="none", fontsize=9)
        with open_draft(path) as draft:
            kind = path.suffix[1:].lower()
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            figure.savefig(draft, format=kind, dpi=130, metadata=dates.get(kind))


def _plot_front(axes: Axes, history: SearchHistory) -> None:
    def list_points(rows: Sequence[Evaluation]) -> tuple[list[float], list[float]]:
        return [history.share(row) for row in rows], [row.error or 0.0 for row in rows]

    top = choose_error_limit(history)
    axes.plot(
        *list_points([row for row in history.evaluated if (row.error or 0) <= top]),
        "o",
        color=GREY,
        ms=3,
        alpha=0.5,
        mew=0,
        label="evaluated",
    )
    _mark_outliers(axes, [history.share(row) for row in history.evaluated if (row.error or 0) > top], top)
    for kind, rows in group_baselines(history).items():
        colour, shape, _ = BASELINE_STYLES.get(kind, OTHER_STYLE)
        axes.plot(*list_points(rows), shape, color=colour, ms=7, mfc="none", mew=1.6, label=f"best {kind}")
    axes.plot(*list_points(history.front), "-o", color=BLUE, ms=5, lw=1.4, label="front, by loss")
    if history.dense is not None:
        axes.plot(1, history.dense.error or 0.0, "*", color=INK_COLOR, ms=12, label="dense network")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=1.03 * top)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"{history.cost}, as a share of the dense network's")


def _plot_convergence(axes: Axes, history: SearchHistory) -> None:
    top, places = choose_error_limit(history), range(1, len(history.evaluated) + 1)
    inside = [(x, row.error) for x, row in zip(places, history.evaluated, strict=True) if (row.error or 0.0) <= top]
    axes.plot(*zip(*inside, strict=True), "o", color=GREY, ms=3.5, alpha=0.6, mew=0, label="evaluated")
    _mark_outliers(axes, [x for x, row in zip(places, history.evaluated, strict=True) if (row.error or 0.0) > top], top)
    for kind, rows in group_baselines(history).items():
        colour, _, dashes = BASELINE_STYLES.get(kind, OTHER_STYLE)
        for row in rows:
            error = row.error or 0.0
            label = f"{format_network_name(row)}: {error:.1%}{'' if error <= top else ', above the picture'}"
            if error <= top:
                axes.axhline(error, color=colour, ls=dashes, lw=1.4, label=label)
            else:
                axes.plot([], [], color=colour, ls=dashes, lw=1.4, label=label)
    axes.step(
        places,
        [row.error or 0.0 for row in history.best_so_far],
        where="post",
        color=BLUE,
        lw=2,
        label="lowest loss so far",
    )
    if history.dense is not None:
        axes.axhline(history.dense.error or 0.0, color=INK_COLOR, lw=1.4, label="dense network")
    axes.set_ylim(top=top + 0.03 * (top - axes.get_ylim()[0]))
    axes.set_xlabel("evaluations")


def _mark_outliers(axes: Axes, positions: Sequence[float], top: float) -> None:
    """Mark at the upper edge, at these places along x, what has a larger error than the picture has room for."""
    if positions:
        label = f"{len(positions)} with a larger error"
        axes.plot(positions, [top] * len(positions), "^", color=GREY, ms=4, alpha=0.5, mew=0, label=label)
