"""The figures of the report about one network: the channels that its groups keep, and the weights of its blend."""

from collections.abc import Mapping, Sequence

from blendsearch.results.records import GroupRecord
from blendsearch.results.report.drawing import BLUE, FAINT, GREEN, INK, Drawing, Mark, make_figure, styled
from blendsearch.results.report.figures import Cell, Grid, draw_grid, shorten_names

WIDTH = 370.0
ROW_HEIGHT = 16.0
LEAST_WEIGHT = 0.005
"""Weights below this are shown as none."""

Groups = Sequence[GroupRecord]
"""The groups of a network, in order."""


@styled
def draw_kept_figure(groups: Groups, name: str, network_name: str) -> Drawing:
    """A bar per group as long as its channels in the dense network, filled as far as they are kept."""
    kept, channels = sum(group.kept for group in groups), sum(group.channels for group in groups)
    tips = [f"{group.group}: {group.kept} of {group.channels}, {group.kept_ratio:.0%}" for group in groups]
    bars = _Bars(
        shorten_names(group.group for group in groups),
        [group.kept for group in groups],
        [group.channels for group in groups],
        [f"{group.kept}/{group.channels}" for group in groups],
        tips,
        BLUE,
    )
    description = (
        f"{network_name} keeps {kept} of {channels} channels that can be cut. The table below has the numbers."
    )
    return bars.draw(name, f"Channels that {network_name} keeps, group by group", description)


@styled
def draw_blend_figure(groups: Groups, order: Sequence[str], name: str, network_name: str) -> Drawing | None:
    """The weight of each criterion: a row of cells per group, or one bar chart where all groups have the same blend.

    `order` is that of the criteria, similar ones beside each other. None where the network comes from no blend.
    """
    weights = [get_blend_weights(group) for group in groups]
    if not any(weights):
        return None
    used = [item for item in order if any(row.get(item, 0) >= LEAST_WEIGHT for row in weights)]
    if has_uniform_blend(groups):
        return _draw_blend_bars(weights[0], used, name, network_name)
    return _draw_blend_cells(groups, used, name, network_name)


def get_blend_weights(group: GroupRecord) -> dict[str, float]:
    """Return the weight of each criterion in the blend of one group."""
    return {item.criterion: item.part for item in group.blend or ()}


def has_uniform_blend(groups: Groups) -> bool:
    """Return whether every group has the same blend, up to invisible differences."""
    weights = [get_blend_weights(group) for group in groups]
    first = weights[0]
    return all(
        row.keys() == first.keys() and all(abs(row[key] - first[key]) < LEAST_WEIGHT for key in row) for row in weights
    )


class _Bars:
    """Horizontal bars over the fainter bars of what they are a part of, with a text behind each."""

    def __init__(
        self,
        names: Sequence[str],
        parts: Sequence[float],
        wholes: Sequence[float],
        texts: Sequence[str],
        tips: Sequence[str],
        color: str,
    ) -> None:
        self.names, self.parts, self.wholes = names, parts, wholes
        self.texts, self.tips, self.color = texts, tips, color

    def draw(self, name: str, title: str, description: str) -> Drawing:
        height = ROW_HEIGHT * len(self.names) + 4
        figure = make_figure(WIDTH, height)
        left = min(170.0, 14 + 6.7 * max(map(len, self.names)))
        axes = figure.add_axes((left / WIDTH, 0, (WIDTH - left - 60) / WIDTH, 1))
        rows = range(len(self.names))
        whole = axes.barh(rows, self.wholes, height=0.72, color=FAINT)
        part = axes.barh(rows, self.parts, height=0.72, color=self.color)
        axes.bar_label(whole, self.texts, padding=5, fontsize=10.5, color=INK)
        axes.set_xlim(0, max(self.wholes))
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.set_yticks(rows, self.names, fontsize=10.5)
        axes.set_xticks([])
        axes.tick_params(length=0, pad=5)
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        marks: dict[str, Sequence[Mark]] = {}
        for layer, bars in (("whole", whole), ("part", part)):
            for row, bar in enumerate(bars):
                bar.set_gid(f"{layer}-{row}")
                marks[f"{layer}-{row}"] = [Mark(self.tips[row])]
        return Drawing(figure, name, title, description, marks)


def _draw_blend_bars(weights: Mapping[str, float], criteria: Sequence[str], name: str, network_name: str) -> Drawing:
    ranked = sorted(criteria, key=lambda criterion: -weights.get(criterion, 0.0))
    values = [weights.get(criterion, 0.0) for criterion in ranked]
    texts = [f"{value:.0%}" for value in values]
    tips = [f"{criterion}: {value:.1%}" for criterion, value in zip(ranked, values, strict=True)]
    description = ", ".join(f"{criterion} {text}" for criterion, text in zip(ranked[:5], texts[:5], strict=True))
    bars = _Bars(ranked, values, [1.0] * len(values), texts, tips, GREEN)
    return bars.draw(name, f"The blend of {network_name}, the same in every group", description)


def _draw_blend_cells(groups: Groups, criteria: Sequence[str], name: str, network_name: str) -> Drawing:
    weights = [get_blend_weights(group) for group in groups]
    means = {item: sum(row.get(item, 0.0) for row in weights) / len(weights) for item in criteria}
    largest = max(criteria, key=lambda criterion: means[criterion])
    description = (
        f"{len(criteria)} criteria in {len(groups)} groups. {largest} has the largest weight, "
        f"{means[largest]:.0%} on average."
    )
    cells = [
        [_make_blend_cell(group.group, criterion, row.get(criterion, 0.0)) for criterion in criteria]
        for group, row in zip(groups, weights, strict=True)
    ]
    rows = shorten_names(group.group for group in groups)
    left = min(170.0, 14 + 6.7 * max(map(len, rows)))
    top = 14 + 6.7 * max(map(len, criteria))
    cell = min(26.0, max(11.0, (WIDTH - left - 6) / len(criteria)))
    width, height = max(WIDTH, left + cell * len(criteria) + 6), top + ROW_HEIGHT * len(groups) + 2
    right = width - left - cell * len(criteria)
    figure, _, marks = draw_grid(Grid(rows, criteria, cells, width, height, left, top, right, text_size=10.5))
    return Drawing(figure, name, f"The blend of {network_name}, group by group", description, marks)


def _make_blend_cell(group: str, criterion: str, weight: float) -> Cell:
    if weight < LEAST_WEIGHT:
        return Cell(FAINT)
    return Cell(GREEN, 0.08 + 0.92 * weight, f"{group}, {criterion}: {weight:.0%}")
