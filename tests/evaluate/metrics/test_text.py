"""Answers as numbers, and distances of texts."""

from __future__ import annotations

from mindformers_qwenvl.evaluate.metrics import relaxed_accuracy
from mindformers_qwenvl.evaluate.metrics.text import _edit_distance, edit_distance


def test_numbers_of_the_right_answer_or_of_the_models():
    assert relaxed_accuracy("100", ["95"]) == 0
    assert relaxed_accuracy("100", ["95"], as_published=True) == 1
    assert relaxed_accuracy("95", ["100"]) == 1
    assert relaxed_accuracy("5%", ["0.0499"]) == 1
    assert relaxed_accuracy("0.0", ["0"]) == 0  # 5% of nothing is nothing: texts are compared


def test_distances_with_and_without_rapidfuzz():
    for a, b, distance in (("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("北京", "北平", 1)):
        assert _edit_distance(a, b) == edit_distance(a, b) == distance
