"""The figures of the report about one network: what its groups keep, and whose say that was."""

from collections.abc import Mapping, Sequence
from typing import Any

from blendsearch.results.report.svg import Drawing

WIDTH = 370.0
ROW_HEIGHT = 15.0


def draw_kept_figure(groups: Sequence[Mapping[str, Any]], name: str, network_name: str) -> Drawing:
    """A bar per group as long as its channels: in the dense network, and those of them that are kept."""
    kept, channels = sum(group["kept"] for group in groups), sum(group["channels"] for group in groups)
    description = (
        f"{network_name} keeps {kept} of {channels} channels that can be cut; the numbers are in the table below."
    )
    drawing = Drawing(
        WIDTH, ROW_HEIGHT * len(groups) + 22, name, f"Channels that {network_name} keeps, group by group", description
    )
    label = min(150.0, 8 + 5.7 * max(len(group["group"]) for group in groups))
    room = WIDTH - label - 62
    widest = max(group["channels"] for group in groups)
    for number, group in enumerate(groups):
        top = 4 + ROW_HEIGHT * number
        drawing.draw_text(label - 5, top + 10, _shorten_name(group["group"]), "small", "end")
        whole = room * group["channels"] / widest
        tip = f"{group['group']}: {group['kept']} of {group['channels']}, {group['kept_ratio']:.0%}"
        drawing.draw_box(label, top + 1, whole, ROW_HEIGHT - 4, "dense-bar", tip)
        drawing.draw_box(label, top + 1, whole * group["kept_ratio"], ROW_HEIGHT - 4, "kept-bar", tip)
        drawing.draw_text(label + whole + 5, top + 10, f"{group['kept']}/{group['channels']}", "small")
    drawing.draw_text(label, ROW_HEIGHT * len(groups) + 17, "kept, of the dense network's channels", "small")
    return drawing


def draw_blend_figure(
    groups: Sequence[Mapping[str, Any]], order: Sequence[str], name: str, network_name: str
) -> Drawing | None:
    """Each criterion's part of the say: in every group a row of cells, or one bar chart where all groups are alike.

    `order` is that of the criteria, alike ones beside each other. None where the network comes from no blend.
    """
    parts = [get_blend_shares(group) for group in groups]
    if not any(parts):
        return None
    heard = [criterion for criterion in order if any(part.get(criterion, 0) >= 0.005 for part in parts)]
    if has_uniform_blend(groups):
        return _draw_bars(parts[0], heard, name, network_name)
    return _draw_cells(groups, parts, heard, name, network_name)


def get_blend_shares(group: Mapping[str, Any]) -> dict[str, float]:
    """Each heard criterion's part of the say in one group."""
    return {item["criterion"]: item["part"] for item in group["blend"] or []}


def has_uniform_blend(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every group has the same blend, up to what a reader could see."""
    parts = [get_blend_shares(group) for group in groups]
    return all(
        part.keys() == parts[0].keys() and all(abs(part[key] - parts[0][key]) < 0.005 for key in part) for part in parts
    )


def _draw_bars(part: Mapping[str, float], criteria: Sequence[str], name: str, network_name: str) -> Drawing:
    ranked = sorted(criteria, key=lambda criterion: -part.get(criterion, 0.0))
    words = ", ".join(f"{criterion} {part.get(criterion, 0.0):.0%}" for criterion in ranked[:5])
    drawing = Drawing(
        WIDTH, 18.0 * len(ranked) + 8, name, f"The blend of {network_name}, the same in every group", words
    )
    label = min(150.0, 8 + 6.3 * max(len(criterion) for criterion in ranked))
    room = WIDTH - label - 44
    for number, criterion in enumerate(ranked):
        value, top = part.get(criterion, 0.0), 4 + 18.0 * number
        drawing.draw_text(label - 5, top + 11, criterion, "small", "end")
        drawing.draw_box(label, top + 1, room, 13, "dense-bar")
        drawing.draw_box(label, top + 1, max(1.0, room * value), 13, "say-bar", f"{criterion}: {value:.1%}")
        drawing.draw_text(label + room + 5, top + 11, f"{value:.0%}", "small")
    return drawing


def _draw_cells(
    groups: Sequence[Mapping[str, Any]],
    parts: Sequence[Mapping[str, float]],
    criteria: Sequence[str],
    name: str,
    network_name: str,
) -> Drawing:
    loudest = max(criteria, key=lambda criterion: sum(part.get(criterion, 0.0) for part in parts))
    words = (
        f"{len(criteria)} criteria in {len(groups)} groups; heard most over all is {loudest}, with "
        f"{sum(part.get(loudest, 0.0) for part in parts) / len(parts):.0%} of the say on average."
    )
    label = min(150.0, 8 + 5.7 * max(len(group["group"]) for group in groups))
    head = 10 + 5.9 * max(len(criterion) for criterion in criteria)
    cell = min(26.0, max(11.0, (WIDTH - label - 6) / len(criteria)))
    width = max(WIDTH, label + cell * len(criteria) + 6)
    drawing = Drawing(
        width, head + ROW_HEIGHT * len(groups) + 6, name, f"The blend of {network_name}, group by group", words
    )
    for column, criterion in enumerate(criteria):
        drawing.draw_text(label + (column + 0.5) * cell + 3.5, head - 5, criterion, "small", "start", -90)
    for number, (group, part) in enumerate(zip(groups, parts, strict=True)):
        top = head + ROW_HEIGHT * number
        drawing.draw_text(label - 5, top + 10, _shorten_name(group["group"]), "small", "end")
        for column, criterion in enumerate(criteria):
            value = part.get(criterion, 0.0)
            tip = f"{group['group']}, {criterion}: {value:.0%}" if value >= 0.005 else ""
            # a frame of the ground's colour keeps empty cells visible
            drawing.draw_box(label + column * cell, top, cell - 1, ROW_HEIGHT - 1, "empty")
            if tip:
                drawing.draw_box(label + column * cell, top, cell - 1, ROW_HEIGHT - 1, "say", tip, 0.08 + 0.92 * value)
    return drawing


def _shorten_name(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"
