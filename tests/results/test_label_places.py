"""Labels of a chart's points: none covers another, and all are inside."""

from hypothesis import given
from hypothesis import strategies as st

from blendsearch.results.report.label_places import Box, LabelPlace, _make_box, choose_places, make_end_box

WIDTH = 700.0


def make_boxes(points: list[tuple[str, float, float]], places: list[LabelPlace]) -> list[Box]:
    return [_make_box(*point, place) for point, place in zip(points, places, strict=True)]


def test_neighbours_are_labelled_on_both_sides() -> None:
    points = [("knee", 500.0, 100.0), ("best", 520.0, 100.0)]
    knee, best = choose_places(points, [], WIDTH)
    assert (knee.align, best.align) == ("right", "left") and knee.y == best.y > 0


def test_a_label_leaves_room_for_that_of_a_line() -> None:
    (place,) = choose_places([("best", 680.0, 344.0)], [make_end_box("dense", 700.0, 337.0)], WIDTH)
    assert place.y < 0 and place.align == "right"


def test_a_label_at_an_edge_stays_inside() -> None:
    left, right = choose_places([("knee", 2.0, 50.0), ("best", 699.0, 50.0)], [], WIDTH)
    assert (left.align, right.align) == ("left", "right")


@given(st.floats(0, WIDTH), st.floats(0, WIDTH), st.floats(0, 300), st.floats(0, 300))
def test_two_labels_never_cover_each_other(one: float, other: float, low: float, high: float) -> None:
    points = [("knee", one, low), ("best", other, high)]
    first, second = make_boxes(points, choose_places(points, [], WIDTH))
    assert not first.overlaps(second)
    assert all(box.left >= 0 and box.right <= WIDTH for box in (first, second))
