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
from mindformers_qwenvl.evaluate.metrics.captions import bleu, caption_scores, cider, rouge_l
from mindformers_qwenvl.evaluate.metrics.text import _edit_distance, edit_distance
from mindformers_qwenvl.evaluate.metrics.vqa import normalised
from tests.support.evaluation import golden_corpus, golden_rows


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


def test_captions():
    rows, whole = golden_rows("captions"), golden_corpus()
    scores = caption_scores([row["tokenized"] for row in rows], [row["tokenized_references"] for row in rows])
    assert scores.cider == pytest.approx(whole["CIDEr"], abs=1e-9)
    assert scores.rouge_l == pytest.approx(whole["ROUGE_L"], abs=1e-9)
    assert scores.bleu == pytest.approx(whole["Bleu"], abs=1e-9)
    assert scores.each_cider == pytest.approx([row["cider"] for row in rows], abs=1e-9)
    assert scores.each_rouge_l == pytest.approx([row["rouge_l"] for row in rows], abs=1e-9)
    assert [each[3] for each in scores.each_bleu] == pytest.approx([row["bleu_4"] for row in rows], abs=1e-9)


def test_a_caption_alone_has_no_cider():
    assert cider(["a cat"], [["a cat", "a dog"]]) == [0.0]


def test_a_caption_of_no_words():
    assert rouge_l("", ["a cat"]) == 0.0
    whole, each = bleu(["", "a cat"], [["a cat"], ["a cat"]])
    assert each[0][0] == pytest.approx(0.0, abs=1e-6)
    assert 0 < whole[0] < 1


def test_captions_need_references():
    with pytest.raises(ValueError, match="references"):
        caption_scores(["a cat"], [[]])


def test_numbers_of_the_right_answer_or_of_the_models():
    assert relaxed_accuracy("100", ["95"]) == 0
    assert relaxed_accuracy("100", ["95"], as_published=True) == 1
    assert relaxed_accuracy("95", ["100"]) == 1
    assert relaxed_accuracy("5%", ["0.0499"]) == 1
    assert relaxed_accuracy("0.0", ["0"]) == 0  # 5% of nothing is nothing: texts are compared


@pytest.mark.parametrize("metric", [vqa_score, anls, relaxed_accuracy, exact_match])
def test_no_right_answers(metric):
    with pytest.raises(ValueError, match="got none"):
        metric("yes", [])


def test_distances_with_and_without_rapidfuzz():
    for a, b, distance in (("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("北京", "北平", 1)):
        assert _edit_distance(a, b) == edit_distance(a, b) == distance


def test_normalised_answers():
    assert normalised("The two dogs!") == "2 dogs"
    assert normalised("Isnt it somebody'd?") == "isn't it somebodyd"
    assert normalised("1,000 a.m.") == "1000 am"
