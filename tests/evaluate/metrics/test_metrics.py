"""The metrics against the scores that the original's evaluation code gave (tests/golden/eval)."""

from __future__ import annotations

import math

import pytest

from mindformers_qwenvl.evaluate.metrics import (
    anls,
    exact_match,
    gqa_answer,
    grounding_score,
    relaxed_accuracy,
    vqa_score,
)
from tests.support.evaluation import golden_rows


@pytest.mark.parametrize(
    ("file", "metric"),
    [
        ("vqa_score", vqa_score),
        ("anls", anls),
        ("relaxed_accuracy", lambda answer, answers: relaxed_accuracy(answer, answers, as_published=True)),
        ("exact_match", exact_match),
    ],
)
def test_every_golden_row(file, metric):
    rows = golden_rows(file)
    assert len(rows) >= 150
    wrong = [row for row in rows if metric(row["answer"], row["answers"]) != pytest.approx(row["score"], abs=1e-12)]
    assert not wrong, wrong[:3]
    assert len({row["score"] for row in rows}) > 1


def test_every_golden_row_of_gqa():
    rows = golden_rows("gqa")
    for row in rows:
        assert gqa_answer(row["answer"]) == row["normalised"]
        assert exact_match(gqa_answer(row["answer"]), row["answers"]) == row["score"]


def test_every_golden_row_of_grounding():
    for row in golden_rows("grounding"):
        found = grounding_score(row["answer"], row["bbox"], row["width"], row["height"])
        if row["iou"] is None:
            assert math.isnan(found.iou)
        else:
            assert found.iou == pytest.approx(row["iou"], abs=1e-7)
        assert found.correct == bool(row["correct"])


@pytest.mark.parametrize("metric", [vqa_score, anls, relaxed_accuracy, exact_match])
def test_no_right_answers(metric):
    with pytest.raises(ValueError, match="got none"):
        metric("yes", [])
