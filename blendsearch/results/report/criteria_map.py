"""The map of criteria for a reader: plain values, and a picture that explains itself."""

import re
import textwrap
from pathlib import Path
from typing import Any

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
from blendsearch.results.report.output_file import written

SHOWN = 30
"""Most groups that a picture has small maps of: more would be too small to read or too many to compare."""
NUMBERS = 14
"""Most criteria for which cells hold their numbers."""

TEXT, SMALL, TITLE = 9.0, 8.0, 14.0
"""Font sizes in points."""
LETTER = 0.071
"""Width in inches that a letter of TEXT size takes at most on average."""
GAP, LINE = 0.16, 0.14
"""Inches between small maps, and that a line of the names above them takes."""
ABSENT, INK = "0.72", "0.1"
LOOSE = 0.3
"""Mean correlation below which a cluster is what is left over rather than criteria that agree."""

SCALE = "Spearman rank correlation of the channel scores: 1 = same order, 0 = unrelated, -1 = reversed"


def described(found: CorrelationMap) -> dict[str, Any]:
    """The map as plain values: matrices in the order of `criteria`, None where a pair has no correlation."""
    names = found.criteria
    return {
        "criteria": list(names),
        "order": [names[row] for row in found.order],
        "clusters": [
            {
                "cluster": letter(number),
                "members": [names[row] for row in item.members],
                "centre": names[item.centre],
                "mean_inside": _number(item.inside),
                "mean_to_others": _number(item.outside),
            }
            for number, item in enumerate(found.clusters)
        ],
        "mean_inside": _number(found.inside),
        "mean_between": _number(found.between),
        "average": _matrix(found.average),
        "groups": [
            {
                "group": group,
                "channels": found.channels[number],
                "difference": _number(found.difference[number]),
                "clusters": [[names[row] for row in members] for members in found.group_clusters[number]],
                "left_out": [
                    {"criterion": item.criterion, "reason": item.reason}
                    for item in found.left_out
                    if item.group == group
                ],
                "correlation": _matrix(found.correlations[number]),
            }
            for number, group in enumerate(found.groups)
        ],
    }


def letter(number: int) -> str:
    """The name of a cluster: A, B, ..., Z, A2, B2, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def signed(value: float | None) -> str:
    """A correlation to two digits, without a minus before zero; a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}".replace("-0.00", "0.00")


def draw(found: CorrelationMap, model: str, path: Path) -> None:
    """Write the picture to `path`, whose suffix decides the format. `model` names the network in the title.

    Left: the average over groups, criteria in the order of clusters, a box round each. Right: every group in the same
    order; of more than `SHOWN` groups those that differ most from the average. Raises RunError when it cannot be
    written.
    """
    # a person's own matplotlibrc must not change what is a fixed layout
    with matplotlib.style.context("default"), matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "map"}):
        figure = _Picture(found, model).figure
        with written(path) as draft:
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            kind = path.suffix[1:].lower()
            figure.savefig(draft, format=kind, dpi=100, metadata=dates.get(kind))


class _Picture:
    """Everything is placed in inches from the top left, so that text keeps its size whatever the map's."""

    def __init__(self, found: CorrelationMap, model: str) -> None:
        self.found = found
        self.order = list(found.order)
        self.names = [found.criteria[row] for row in self.order]
        n = len(self.names)
        self.side = max(2.2, n * (0.52 if n <= NUMBERS else max(0.2, 7.3 / n)))
        self.cell = self.side / n
        self.shown = _most_different(found)
        names = 0.2 + LETTER * max(len(name) for name in self.names)
        self.labels = [self._label(number) for number in range(len(found.clusters))]
        right = names + self.side + 0.5 + LETTER * max(len(line) for text in self.labels for line in text.split("\n"))
        scale = textwrap.wrap(SCALE, int(self.side / LETTER))
        body = self.side + names + 0.75 + 0.16 * len(scale)
        columns, small, lines = _grid([found.groups[group] for group in self.shown], body)
        down = small + lines * LINE + 0.1
        self.width = right + max(columns * (small + GAP), 4.2 if self.shown else 0.0) + 0.1
        title = textwrap.wrap(self._title(model), int(self.width / 0.125))
        notes = [line for note in self._notes() for line in textwrap.wrap(note, int(self.width / LETTER))]
        top = 0.75 + 0.26 * len(title)
        self.height = top + body + 0.3 + 0.2 * len(notes)
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self._text(0.2, 0.3, "\n".join(title), TITLE, weight="bold")
        self._text(names, top - 0.1, f"Average over {_count(len(found.groups), 'group')}", 11, va="bottom")
        main = self._axes(names, top, self.side)
        self._average(main)
        self._scale(names, top + self.side + names + 0.15, scale)
        if self.shown:
            self._text(right, top - 0.1, self._heading(), 11, va="bottom")
        for place, group in enumerate(self.shown):
            row, column = divmod(place, columns)
            x, y = right + column * (small + GAP), top + lines * LINE + row * down
            self._group(self._axes(x, y, small), group, small)
        self._text(0.2, top + body + 0.2, "\n".join(notes), TEXT)

    def _title(self, model: str) -> str:
        criteria, groups = _count(len(self.names), "criterion", "criteria"), _count(len(self.found.groups), "group")
        return f"{criteria} over {groups} of {model}: criteria that share a red box rank channels alike"

    def _heading(self) -> str:
        total = len(self.found.groups)
        which = "Each group" if len(self.shown) == total else f"The {len(self.shown)} groups most unlike the average"
        return f"{which}, criteria in the same order"

    def _notes(self) -> list[str]:
        found = self.found
        notes = [
            "Each cell compares two criteria by how they order the channels of a group. A box is a cluster, formed on "
            "the average; a bold name is the criterion nearest its cluster's centre, which speaks best for the others."
        ]
        if np.isfinite(found.inside) and np.isfinite(found.between):
            notes[0] += f" Mean correlation {signed(found.inside)} inside boxes, {signed(found.between)} between them."
        total = len(found.groups)
        if 0 < len(self.shown) < total:
            notes.append(f"{len(self.shown)} of {total} groups are shown, in the network's order.")
        order = np.ix_(self.order, self.order)
        if not all(np.isfinite(found.correlations[group][order]).all() for group in self.shown):
            notes.append("Grey: a criterion that is left out of that group.")
        nowhere = [name for row, name in enumerate(found.criteria) if row not in self.order]
        if nowhere:
            notes.append(f"Not shown, because they rank no group: {', '.join(nowhere)}.")
        return notes

    def _average(self, axes: Axes) -> None:
        n, found = len(self.names), self.found
        average = found.average[np.ix_(self.order, self.order)]
        self._heat(axes, average)
        axes.set_xticks(range(n), self.names, rotation=90, fontsize=TEXT)
        axes.set_yticks(range(n), self.names, fontsize=TEXT)
        axes.tick_params(length=0, pad=4)
        centres = {found.criteria[item.centre] for item in found.clusters if item.inside >= LOOSE}
        for name in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            if name.get_text() in centres:
                name.set_fontweight("bold")
        if n <= NUMBERS:
            for (y, x), value in np.ndenumerate(average):
                if np.isfinite(value):
                    colour = "white" if abs(value) > 0.6 else INK
                    axes.text(x, y, signed(value), ha="center", va="center", fontsize=TEXT, color=colour)
        first = 0
        for text, item in zip(self.labels, found.clusters, strict=True):
            last = first + len(item.members) - 1
            x = n - 0.5 + 0.12 / self.cell
            bracket = Line2D([x, x], [first - 0.3, last + 0.3], color=INK, linewidth=2.2, clip_on=False)
            axes.add_artist(bracket)  # unlike a plotted line, it leaves the axes' limits alone
            axes.text(x + 0.08 / self.cell, (first + last) / 2, text, va="center", fontsize=TEXT, color=INK)
            first = last + 1
        self._boxes(axes, 2.2)

    def _label(self, number: int) -> str:
        """What is written beside a cluster's rows."""
        item = self.found.clusters[number]
        if len(item.members) == 1:
            return f"{letter(number)}: on its own"
        likeness = f"like {self.found.criteria[item.centre]}" if item.inside >= LOOSE else "little in common"
        between = "\n" if len(item.members) * self.cell > 0.35 else ", "
        return f"{letter(number)}: {likeness}{between}mean correlation {signed(item.inside)}"

    def _group(self, axes: Axes, group: int, small: float) -> None:
        self._heat(axes, self.found.correlations[group][np.ix_(self.order, self.order)])
        axes.set_xticks([])
        axes.set_yticks([])
        self._boxes(axes, 0.9)
        lines = [*_lines(self.found.groups[group], small), _count(self.found.channels[group], "channel")]
        axes.set_title("\n".join(lines), fontsize=SMALL, pad=2, loc="left", linespacing=1.1)

    def _boxes(self, axes: Axes, linewidth: float) -> None:
        first = 0
        for item in self.found.clusters:
            size = len(item.members)
            axes.add_patch(
                Rectangle(
                    (first - 0.5, first - 0.5), size, size, fill=False, edgecolor=INK, linewidth=linewidth, zorder=3
                )
            )
            first += size

    def _heat(self, axes: Axes, values: NDArray[np.float64]) -> None:
        axes.imshow(values, cmap=_colours(), norm=Normalize(-1, 1), interpolation="nearest", aspect="equal")
        for spine in axes.spines.values():
            spine.set_color("0.6")
            spine.set_linewidth(0.6)

    def _scale(self, left: float, top: float, words: list[str]) -> None:
        axes = self.figure.add_axes(self._place(left, top, self.side, 0.16))
        bar = self.figure.colorbar(ScalarMappable(Normalize(-1, 1), _colours()), cax=axes, orientation="horizontal")
        bar.set_ticks([-1, -0.5, 0, 0.5, 1], labels=["-1", "-0.5", "0", "0.5", "1"], fontsize=TEXT)
        bar.set_label("\n".join(words), fontsize=TEXT)

    def _axes(self, left: float, top: float, side: float) -> Axes:
        return self.figure.add_axes(self._place(left, top, side, side))

    def _text(self, left: float, top: float, text: str, size: float, va: str = "top", weight: str = "normal") -> None:
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, text, fontsize=size, ha="left", va=va, weight=weight, color=INK, linespacing=1.25)

    def _place(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        bottom = self.height - top - height
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _colours() -> Colormap:
    """Red for alike, blue for reversed, white between: told apart by those who see no red or green as well."""
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad=ABSENT)


def _most_different(found: CorrelationMap) -> list[int]:
    """Numbers of the groups that are shown, ascending; those that rank nothing are never among them."""
    ranked = [group for group in range(len(found.groups)) if np.isfinite(found.correlations[group]).any()]
    if len(ranked) > SHOWN:
        ranked = sorted(ranked, key=lambda group: -np.nan_to_num(found.difference[group]))[:SHOWN]
    return sorted(ranked)


def _grid(names: list[str], tall: float) -> tuple[int, float, int]:
    """Columns of the small maps, their side, and lines of text above each; as large as fits beside the large one."""
    best = 1, 0.0, 2
    for columns in range(1, len(names) + 1):
        side, lines = min(2.9, 8.4 / columns - GAP), 2
        for _ in range(2):  # what is smaller may need another line, which makes it smaller
            lines = max(len(_lines(name, side)) for name in names) + 1
            side = min(side, tall / -(-len(names) // columns) - lines * LINE - 0.1)
        if side > best[1]:
            best = columns, side, lines
    return best


def _lines(name: str, width: float) -> list[str]:
    """A group's name over `width` inches: broken after dots into at most three lines, shortened where that is short."""
    longest = max(6, int(width / 0.065))
    lines = [""]
    for part in re.findall(r"[^.]*\.?", name)[:-1]:
        if lines[-1] and len(lines[-1] + part) > longest:
            lines.append("")
        lines[-1] += part
    # the end says where a layer is
    return [line if len(line) <= longest else f"…{line[1 - longest :]}" for line in lines[-3:]]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _matrix(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in values]
