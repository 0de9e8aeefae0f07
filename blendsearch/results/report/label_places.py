"""Places for the labels of points in a chart, beside each other and inside it."""

from collections.abc import Sequence
from typing import NamedTuple

LETTER, LINE = 7.5, 13.0
"""Width of a bold letter and height of a line in user units."""

ABOVE, BELOW, ASIDE = 7.0, -19.0, 8.0
"""Distance of a label from its point."""


class Box(NamedTuple):
    """A rectangle in user units from the lower left corner of the axes."""

    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: "Box") -> bool:
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high


class LabelPlace(NamedTuple):
    """The offset of a label from its point, and its alignment: ``left`` or ``right``."""

    x: float
    y: float
    align: str


def make_end_box(text: str, x: float, y: float) -> Box:
    """Make the box of a label that ends at a point, just above it."""
    return Box(x - LETTER * len(text), y + 3, x, y + 3 + LINE)


def choose_places(points: Sequence[tuple[str, float, float]], taken: Sequence[Box], width: float) -> list[LabelPlace]:
    """Choose a place for the label of each point, given as text, x and y, that covers none of those before it.

    `taken` are boxes of other texts, `width` is the right end of the chart. Where every place is taken, the first is
    chosen.
    """
    boxes, found = list(taken), []
    for text, x, y in points:
        places = [LabelPlace(side, height, align) for height in (ABOVE, BELOW) for side, align in _list_sides(text, x)]
        free = [place for place in places if _is_free(_make_box(text, x, y, place), boxes, width)]
        found.append((free or places)[0])
        boxes.append(_make_box(text, x, y, found[-1]))
    return found


def _list_sides(text: str, x: float) -> list[tuple[float, str]]:
    """List the sides of a point, the left one first where there is room."""
    sides = [(-ASIDE, "right"), (ASIDE, "left")]
    return sides if x > LETTER * len(text) + ASIDE else sides[::-1]


def _make_box(text: str, x: float, y: float, place: LabelPlace) -> Box:
    start = x + place.x - (LETTER * len(text) if place.align == "right" else 0)
    return Box(start, y + place.y, start + LETTER * len(text), y + place.y + LINE)


def _is_free(box: Box, taken: Sequence[Box], width: float) -> bool:
    return box.left >= 0 and box.right <= width and not any(box.overlaps(other) for other in taken)
