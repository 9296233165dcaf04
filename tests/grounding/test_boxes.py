"""Boxes on the grid, in pixels, compared."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.grounding import Box, Quad, iou

GRID = st.integers(0, 999)
SIDES = st.integers(1, 5000)
ANY = st.integers(-3000, 3000)


@st.composite
def boxes(draw):
    x1, x2 = sorted((draw(GRID), draw(GRID)))
    y1, y2 = sorted((draw(GRID), draw(GRID)))
    return Box(x1, y1, x2, y2)


def test_pixels_are_those_of_the_original():
    box = Box(588, 499, 725, 789)
    assert box.to_pixels(640, 480) == (376, 239, 464, 378)  # 376.32, 239.52, 464.0, 378.72
    assert Box(0, 0, 999, 999).to_pixels(1000, 7) == (0, 0, 999, 6)
    assert Quad.of((0, 0, 500, 0, 999, 999, 0, 500)).to_pixels(200, 100) == ((0, 0), (100, 0), (199, 99), (0, 50))


@given(boxes(), SIDES, SIDES)
def test_pixels_lie_in_the_picture_and_where_the_grid_says(box, width, height):
    pixels = box.to_pixels(width, height)
    assert pixels == tuple(
        int(value / 1000 * size) for value, size in zip(box.coordinates, (width, height) * 2, strict=True)
    )
    assert 0 <= pixels[0] <= pixels[2] < width and 0 <= pixels[1] <= pixels[3] < height


@given(boxes(), st.integers(2001, 5000), st.integers(2001, 5000))
def test_grid_to_pixels_and_back_is_the_same_in_large_pictures(box, width, height):
    assert Box.from_pixels(box.to_pixels(width, height), width, height) == box


@given(SIDES, SIDES, st.data())
def test_pixels_to_grid_and_back_move_by_less_than_a_cell_and_a_pixel(width, height, data):
    x1, x2 = sorted(data.draw(st.integers(0, width)) for _ in "12")
    y1, y2 = sorted(data.draw(st.integers(0, height)) for _ in "12")
    box = Box.from_pixels((x1, y1, x2, y2), width, height, "label")
    assert not box.clipped and not box.reordered and box.label == "label"
    sizes = (width, height, width, height)
    for before, after, size in zip((x1, y1, x2, y2), box.to_pixels(width, height), sizes, strict=True):
        assert abs(before - after) <= math.ceil(size / 1000) + 1


def test_pixels_outside_of_the_picture_are_clipped_and_noted():
    assert Box.from_pixels((-5, 10, 220, 50), 200, 100) == Box(0, 100, 999, 500)
    assert Box.from_pixels((-5, 10, 220, 50), 200, 100).clipped
    edge = Box.from_pixels((0, 0, 200, 100), 200, 100)
    assert edge == Box(0, 0, 999, 999) and not edge.clipped
    assert Quad.from_pixels(((0, 0), (200, 0), (200, 100), (0, 101)), 200, 100).clipped
    for size in ((0, 10), (10, 0), (-1, 1)):
        with pytest.raises(ValueError, match="width and height of a picture must be above 0"):
            Box.from_pixels((0, 0, 1, 1), *size)
        with pytest.raises(ValueError, match="width and height of a picture must be above 0"):
            Box(0, 0, 1, 1).to_pixels(*size)


@given(ANY, ANY, ANY, ANY)
def test_any_numbers_become_a_box_and_what_was_done_is_noted(x1, y1, x2, y2):
    box = Box.of((x1, y1, x2, y2))
    given_ = [min(max(value, 0), 999) for value in (x1, y1, x2, y2)]
    assert box.coordinates == (
        *(min(given_[0], given_[2]), min(given_[1], given_[3])),
        *(max(given_[0], given_[2]), max(given_[1], given_[3])),
    )
    assert box.clipped == (not all(0 <= value <= 999 for value in (x1, y1, x2, y2)))
    assert box.reordered == (x1 > x2 or y1 > y2)


@pytest.mark.parametrize("numbers", [(5, 0, 4, 9), (0, 9, 9, 8), (-1, 0, 1, 1), (0, 0, 1000, 1), (0.5, 0, 1, 1)])
def test_an_invalid_box_cannot_be_made(numbers):
    with pytest.raises(ValueError, match=r"a box must have x1 <= x2|whole numbers from 0 to 999"):
        Box(*numbers)


def test_an_invalid_quad_cannot_be_made():
    with pytest.raises(ValueError, match="four corners"):
        Quad(((0, 0), (1, 1), (2, 2)))
    with pytest.raises(ValueError, match="0 to 999"):
        Quad(((0, 0), (1, 1), (2, 2), (3, 1000)))
    assert Quad(((5, 1), (9, 4), (7, 8), (2, 6)), "a").bounds == Box(2, 1, 9, 8, "a")


def test_iou():
    assert iou(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 0.5)) == pytest.approx(0.125 / 0.625)
    assert iou(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0  # they touch
    assert iou(Box(5, 5, 5, 5), Box(5, 5, 5, 5)) == 0  # no area


@given(boxes(), boxes())
def test_iou_is_symmetric_and_between_nothing_and_all(a, b):
    value = iou(a, b)
    assert 0 <= value <= 1 and value == iou(b, a)
    has_area = a.x1 < a.x2 and a.y1 < a.y2
    assert iou(a, a) == (1 if has_area else 0)
    if value == 1:
        assert a == b


@given(st.lists(st.integers(0, 12), min_size=8, max_size=8))
def test_iou_counts_cells(numbers):
    a, b = Box.of(numbers[:4]), Box.of(numbers[4:])
    cells = [{(x, y) for x in range(box.x1, box.x2) for y in range(box.y1, box.y2)} for box in (a, b)]
    union = cells[0] | cells[1]
    assert iou(a, b) == pytest.approx(len(cells[0] & cells[1]) / len(union) if union else 0)
