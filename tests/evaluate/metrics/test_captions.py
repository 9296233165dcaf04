"""CIDEr, ROUGE-L and BLEU of captions, against the scores that the original's evaluation code gave."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.evaluate.metrics.captions import bleu, caption_scores, cider, rouge_l
from tests.support.evaluation import golden_corpus, golden_rows


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
