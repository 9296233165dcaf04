"""Labels: where they stand, and what they must not hide."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindformers_qwenvl.grounding import Box, draw
from tests.support.drawings import label_area, white


def test_a_label_stands_at_the_upper_left_corner_of_the_first_box(no_fonts):
    drawn = draw(white(300, 200), [Box(100, 200, 700, 900, "cat"), Box(800, 800, 900, 900, "cat", True)])
    x1, y1, x2, y2 = label_area(drawn)
    assert (x1, y1) == (33, 43) and 20 < x2 - x1 < 60 and 10 < y2 - y1 < 30
    bright = np.asarray(drawn)[y1:y2, x1:x2].max(axis=(0, 1))
    assert bright[2] >= 204  # the box is blue


@pytest.mark.parametrize(
    "box", [Box(950, 950, 999, 999, "a label"), Box(0, 0, 10, 10, "a label"), Box(999, 0, 999, 0, "a")]
)
def test_labels_stay_on_the_picture(box, no_fonts):
    x1, y1, x2, y2 = label_area(draw(white(120, 60), [box]))
    apart = label_area(draw(white(400, 400), [Box(100, 100, 900, 900, box.label)]))
    assert abs((x2 - x1) - (apart[2] - apart[0])) <= 3 and abs((y2 - y1) - (apart[3] - apart[1])) <= 3
    assert 0 <= x1 < x2 <= 120 and 0 <= y1 < y2 <= 60


def test_characters_without_a_shape_are_left_out(no_fonts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd = draw(white(), [Box(0, 0, 999, 999, "a\u200b\x00\ud800\u00ad b\n")])
        np.testing.assert_array_equal(np.asarray(odd), np.asarray(draw(white(), [Box(0, 0, 999, 999, "a b")])))
        empty = draw(white(), [Box(0, 0, 999, 999, "\u200b")])
        np.testing.assert_array_equal(np.asarray(empty), np.asarray(draw(white(), [Box(0, 0, 999, 999)])))


@settings(max_examples=60)
@given(st.text(max_size=30))
@pytest.mark.filterwarnings("ignore::mindformers_qwenvl.grounding.FontWarning")
def test_any_label_can_be_drawn(label):
    assert draw(white(90, 60), [Box(100, 100, 900, 900, label)]).size == (90, 60)


def test_long_labels_are_folded(no_fonts):
    x1, y1, x2, y2 = label_area(
        draw(white(100, 300), [Box(0, 0, 500, 500, "a label of many words, none of them long")])
    )
    one = label_area(draw(white(100, 300), [Box(0, 0, 500, 500, "a label")]))
    assert x2 - x1 <= 100 and y2 - y1 > 3 * (one[3] - one[1])
    label_area(draw(white(40, 300), [Box(0, 0, 500, 500, "x" * 60)]))


def hidden(size, boxes: list[Box]) -> float:
    """The part of a white picture that is no longer white, because of labels alone."""
    plain = [replace(box, label=None) for box in boxes]
    with_labels, without = (np.asarray(draw(white(*size), some)) for some in (boxes, plain))
    return float((with_labels != without).any(axis=2).mean())


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.lists(
        st.builds(
            Box.of, st.lists(st.integers(0, 999), min_size=4, max_size=4), st.text("abc def", min_size=1, max_size=40)
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_labels_hide_no_more_than_half_of_a_small_picture(size, boxes):
    assert hidden(size, boxes) <= 0.5
    assert hidden(size, boxes[:1]) <= 0.25


def test_labels_on_small_pictures(no_fonts, caplog):
    assert 0 < hidden((56, 56), [Box(0, 250, 750, 999, "blue square")]) <= 0.25
    assert not caplog.text
    assert hidden((20, 12), [Box(0, 0, 600, 600, "cat")]) == 0
    assert "the picture of 20x12 pixels is too small for the label 'cat'" in caplog.text


def test_a_label_does_not_hide_a_small_box(no_fonts):
    for y, below in ((500, False), (0, True)):
        x1, y1, _, y2 = label_area(draw(white(400, 400), [Box(500, y, 530, y + 30, "a bird")]))
        assert x1 == 200
        assert y1 > 12 if below else y2 <= 200


def test_labels_do_not_hide_each_other(no_fonts):
    first, second = Box(100, 100, 900, 900, "one thing"), Box(100, 100, 800, 950, "another")
    both = np.asarray(draw(white(400, 400), [first, second]))
    places = {
        label: (both == colour).all(axis=2).sum()
        for label, colour in (("one", (51, 119, 204)), ("another", (255, 127, 51)))
    }
    alone = np.asarray(draw(white(400, 400), [first]))
    assert places["one"] >= (alone == (51, 119, 204)).all(axis=2).sum() > 0 and places["another"] > 0


@pytest.mark.parametrize("label", ["x" * 600, "word " * 20_000, "\n".join("ab" * 3000)])
def test_a_label_of_any_length_is_drawn_soon(label):
    started = time.process_time()  # whatever else the machine does
    draw(Image.new("RGB", (448, 448)), [Box(100, 100, 900, 900, label)])
    assert time.process_time() - started < 5


def test_any_number_of_labels_is_drawn_soon():
    boxes = [Box(n % 900, n % 800, n % 900 + 90, n % 800 + 90, f"label {n}") for n in range(5000)]
    started = time.process_time()  # whatever else the machine does
    draw(Image.new("RGB", (2000, 1500)), boxes)
    assert time.process_time() - started < 20
