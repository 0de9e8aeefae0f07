"""The map of criteria as a picture that explains itself."""

import re
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from blendsearch.blend.correlation_map import CorrelationMap
from blendsearch.results.report.criteria_map import format_cluster_name, format_correlation
from blendsearch.results.report.output_file import open_draft

MAX_GROUP_MAPS = 30
"""Most groups with a small map: more would be too small to read."""
MAX_NUMBERED_CRITERIA = 14
"""Most criteria for which cells hold their numbers."""

TEXT_SIZE, SMALL_SIZE, TITLE_SIZE = 9.0, 8.0, 14.0
"""Font sizes in points."""
LETTER_WIDTH = 0.071
"""Width in inches that a letter of TEXT size takes at most on average."""
MAP_GAP, LINE_HEIGHT = 0.16, 0.14
"""Inches between small maps, and that a line of the names above them takes."""
MISSING_COLOR, INK_COLOR = "0.72", "0.1"
LOOSE_CLUSTER = 0.3
"""Mean correlation below which the members of a cluster do not agree."""

SCALE_LABEL = "Spearman rank correlation of the channel scores: 1 = same order, 0 = unrelated, -1 = reversed"


def draw_criteria_map(criteria_map: CorrelationMap, model_name: str, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. `model_name` is in the title.

    Left: the average over groups, criteria in the order of clusters, a box round each. Right: every group in the same
    order; of more than `MAX_GROUP_MAPS` groups those that differ most from the average. Raises RunError when it cannot
    be written.
    """
    # a user's matplotlibrc must not change the layout
    with matplotlib.style.context("default"), matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "map"}):
        figure = _CriteriaMapFigure(criteria_map, model_name).figure
        with open_draft(path) as draft:
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            kind = path.suffix[1:].lower()
            figure.savefig(draft, format=kind, dpi=100, metadata=dates.get(kind))


class _CriteriaMapFigure:
    """Everything is placed in inches from the top left, so that text keeps its size whatever the map's."""

    def __init__(self, criteria_map: CorrelationMap, model_name: str) -> None:
        self.criteria_map = criteria_map
        self.order = list(criteria_map.order)
        self.names = [criteria_map.criteria[row] for row in self.order]
        n = len(self.names)
        self.side = max(2.2, n * (0.52 if n <= MAX_NUMBERED_CRITERIA else max(0.2, 7.3 / n)))
        self.cell = self.side / n
        self.group_indices = _select_groups(criteria_map)
        names = 0.2 + LETTER_WIDTH * max(len(name) for name in self.names)
        self.labels = [self._format_label(number) for number in range(len(criteria_map.clusters))]
        right = (
            names + self.side + 0.5 + LETTER_WIDTH * max(len(line) for text in self.labels for line in text.split("\n"))
        )
        scale = textwrap.wrap(SCALE_LABEL, int(self.side / LETTER_WIDTH))
        body = self.side + names + 0.75 + 0.16 * len(scale)
        columns, small, lines = _fit_grid([criteria_map.groups[group] for group in self.group_indices], body)
        down = small + lines * LINE_HEIGHT + 0.1
        self.width = right + max(columns * (small + MAP_GAP), 4.2 if self.group_indices else 0.0) + 0.1
        title = textwrap.wrap(self._format_title(model_name), int(self.width / 0.125))
        notes = [line for note in self._format_notes() for line in textwrap.wrap(note, int(self.width / LETTER_WIDTH))]
        top = 0.75 + 0.26 * len(title)
        self.height = top + body + 0.3 + 0.2 * len(notes)
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self._add_text(0.2, 0.3, "\n".join(title), TITLE_SIZE, weight="bold")
        self._add_text(
            names, top - 0.1, f"Average over {_format_count(len(criteria_map.groups), 'group')}", 11, va="bottom"
        )
        main = self._add_axes(names, top, self.side)
        self._draw_average(main)
        self._draw_color_scale(names, top + self.side + names + 0.15, scale)
        if self.group_indices:
            self._add_text(right, top - 0.1, self._format_heading(), 11, va="bottom")
        for place, group in enumerate(self.group_indices):
            row, column = divmod(place, columns)
            x, y = right + column * (small + MAP_GAP), top + lines * LINE_HEIGHT + row * down
            self._draw_group(self._add_axes(x, y, small), group, small)
        self._add_text(0.2, top + body + 0.2, "\n".join(notes), TEXT_SIZE)

    def _format_title(self, model_name: str) -> str:
        criteria, groups = (
            _format_count(len(self.names), "criterion", "criteria"),
            _format_count(len(self.criteria_map.groups), "group"),
        )
        return f"{criteria} over {groups} of {model_name}: criteria that share a red box rank channels alike"

    def _format_heading(self) -> str:
        total = len(self.criteria_map.groups)
        which = (
            "Each group"
            if len(self.group_indices) == total
            else f"The {len(self.group_indices)} groups most unlike the average"
        )
        return f"{which}, criteria in the same order"

    def _format_notes(self) -> list[str]:
        found = self.criteria_map
        notes = [
            "Each cell compares two criteria by how they order the channels of a group. A box is a cluster, formed on "
            "the average; a bold name is the criterion nearest to the centre of its cluster, its best representative."
        ]
        if np.isfinite(found.mean_inside) and np.isfinite(found.mean_between):
            notes[0] += (
                f" Mean correlation {format_correlation(found.mean_inside)} inside boxes, "
                f"{format_correlation(found.mean_between)} between them."
            )
        total = len(found.groups)
        if 0 < len(self.group_indices) < total:
            notes.append(f"{len(self.group_indices)} of {total} groups are shown, in the network's order.")
        order = np.ix_(self.order, self.order)
        if not all(np.isfinite(found.correlations[group][order]).all() for group in self.group_indices):
            notes.append("Grey: a criterion that is left out of that group.")
        nowhere = [name for row, name in enumerate(found.criteria) if row not in self.order]
        if nowhere:
            notes.append(f"Not shown, because they rank no group: {', '.join(nowhere)}.")
        return notes

    def _draw_average(self, axes: Axes) -> None:
        n, found = len(self.names), self.criteria_map
        average = found.average[np.ix_(self.order, self.order)]
        self._draw_heatmap(axes, average)
        axes.set_xticks(range(n), self.names, rotation=90, fontsize=TEXT_SIZE)
        axes.set_yticks(range(n), self.names, fontsize=TEXT_SIZE)
        axes.tick_params(length=0, pad=4)
        centres = {found.criteria[item.centre] for item in found.clusters if item.mean_inside >= LOOSE_CLUSTER}
        for name in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            if name.get_text() in centres:
                name.set_fontweight("bold")
        if n <= MAX_NUMBERED_CRITERIA:
            for (y, x), value in np.ndenumerate(average):
                if np.isfinite(value):
                    colour = "white" if abs(value) > 0.6 else INK_COLOR
                    axes.text(
                        x, y, format_correlation(value), ha="center", va="center", fontsize=TEXT_SIZE, color=colour
                    )
        first = 0
        for text, item in zip(self.labels, found.clusters, strict=True):
            last = first + len(item.members) - 1
            x = n - 0.5 + 0.12 / self.cell
            bracket = Line2D([x, x], [first - 0.3, last + 0.3], color=INK_COLOR, linewidth=2.2, clip_on=False)
            axes.add_artist(bracket)  # unlike a plotted line, it leaves the axes' limits alone
            axes.text(x + 0.08 / self.cell, (first + last) / 2, text, va="center", fontsize=TEXT_SIZE, color=INK_COLOR)
            first = last + 1
        self._draw_boxes(axes, 2.2)

    def _format_label(self, number: int) -> str:
        """Format the label beside the rows of a cluster."""
        item = self.criteria_map.clusters[number]
        if len(item.members) == 1:
            return f"{format_cluster_name(number)}: on its own"
        likeness = (
            f"like {self.criteria_map.criteria[item.centre]}"
            if item.mean_inside >= LOOSE_CLUSTER
            else "little in common"
        )
        between = "\n" if len(item.members) * self.cell > 0.35 else ", "
        return (
            f"{format_cluster_name(number)}: {likeness}{between}mean correlation {format_correlation(item.mean_inside)}"
        )

    def _draw_group(self, axes: Axes, group: int, side: float) -> None:
        self._draw_heatmap(axes, self.criteria_map.correlations[group][np.ix_(self.order, self.order)])
        axes.set_xticks([])
        axes.set_yticks([])
        self._draw_boxes(axes, 0.9)
        lines = [
            *_wrap_name(self.criteria_map.groups[group], side),
            _format_count(self.criteria_map.channels[group], "channel"),
        ]
        axes.set_title("\n".join(lines), fontsize=SMALL_SIZE, pad=2, loc="left", linespacing=1.1)

    def _draw_boxes(self, axes: Axes, linewidth: float) -> None:
        first = 0
        for item in self.criteria_map.clusters:
            size = len(item.members)
            axes.add_patch(
                Rectangle(
                    (first - 0.5, first - 0.5),
                    size,
                    size,
                    fill=False,
                    edgecolor=INK_COLOR,
                    linewidth=linewidth,
                    zorder=3,
                )
            )
            first += size

    def _draw_heatmap(self, axes: Axes, values: NDArray[np.float64]) -> None:
        axes.imshow(values, cmap=_make_colormap(), norm=Normalize(-1, 1), interpolation="nearest", aspect="equal")
        for spine in axes.spines.values():
            spine.set_color("0.6")
            spine.set_linewidth(0.6)

    def _draw_color_scale(self, left: float, top: float, label_lines: list[str]) -> None:
        axes = self.figure.add_axes(self._compute_position(left, top, self.side, 0.16))
        bar = self.figure.colorbar(
            ScalarMappable(Normalize(-1, 1), _make_colormap()), cax=axes, orientation="horizontal"
        )
        bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["-1", "-0.5", "0", "0.5", "1"], fontsize=TEXT_SIZE)
        bar.set_label("\n".join(label_lines), fontsize=TEXT_SIZE)

    def _add_axes(self, left: float, top: float, side: float) -> Axes:
        return self.figure.add_axes(self._compute_position(left, top, side, side))

    def _add_text(
        self, left: float, top: float, text: str, size: float, va: str = "top", weight: str = "normal"
    ) -> None:
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, text, fontsize=size, ha="left", va=va, weight=weight, color=INK_COLOR, linespacing=1.25)

    def _compute_position(
        self, left: float, top: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        bottom = self.height - top - height
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _make_colormap() -> Colormap:
    """Red for alike, blue for reversed, white between: readable without red-green vision."""
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad=MISSING_COLOR)


def _select_groups(criteria_map: CorrelationMap) -> list[int]:
    """Numbers of the groups that are shown, ascending; those that rank nothing are never among them."""
    ranked = [group for group in range(len(criteria_map.groups)) if np.isfinite(criteria_map.correlations[group]).any()]
    if len(ranked) > MAX_GROUP_MAPS:
        ranked = sorted(ranked, key=lambda group: -np.nan_to_num(criteria_map.difference[group]))[:MAX_GROUP_MAPS]
    return sorted(ranked)


def _fit_grid(names: list[str], height: float) -> tuple[int, float, int]:
    """Columns of the small maps, their side, and lines of text above each; as large as fits beside the large one."""
    best = 1, 0.0, 2
    for columns in range(1, len(names) + 1):
        side, lines = min(2.9, 8.4 / columns - MAP_GAP), 2
        for _ in range(2):  # what is smaller may need another line, which makes it smaller
            lines = max(len(_wrap_name(name, side)) for name in names) + 1
            side = min(side, height / -(-len(names) // columns) - lines * LINE_HEIGHT - 0.1)
        if side > best[1]:
            best = columns, side, lines
    return best


def _wrap_name(name: str, width: float) -> list[str]:
    """A group's name over `width` inches: broken after dots into at most three lines, shortened where that is short."""
    longest = max(6, int(width / 0.065))
    lines = [""]
    for part in re.findall(r"[^.]*\.?", name)[:-1]:
        if lines[-1] and len(lines[-1] + part) > longest:
            lines.append("")
        lines[-1] += part
    # the end of a name identifies the layer
    return [line if len(line) <= longest else f"…{line[1 - longest :]}" for line in lines[-3:]]


def _format_count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
