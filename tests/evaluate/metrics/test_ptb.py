"""Our tokenizer for captions against what Stanford's wrote, in the golden captions and in ptb.jsonl."""

from __future__ import annotations

import shutil

import pytest

from mindformers_qwenvl.evaluate.metrics import ptb
from tests.support.evaluation import golden_rows


def test_every_golden_caption_and_reference():
    for row in golden_rows("captions"):
        assert ptb.tokenize([row["caption"], *row["references"]]) == [row["tokenized"], *row["tokenized_references"]]


def test_unusual_captions():
    rows = golden_rows("ptb")
    ours = ptb.tokenize([row["caption"] for row in rows])
    assert [one for one, row in zip(ours, rows, strict=True) if one != row["tokenized"]] == []


@pytest.mark.parametrize("text", ["", "   ", "...", '"', "'", "\n"])
def test_nothing_said(text):
    assert ptb.tokenize([text]) == [""]


def test_punctuation_is_among_the_words():
    assert ptb.words('He said "no".') == ["he", "said", "``", "no", "''", "."]


def test_which_one_is_used(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert ptb.tokenizer_for_captions() == (ptb.OURS, ptb.tokenize)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(ptb.importlib.util, "find_spec", lambda name: object())
    assert ptb.tokenizer_for_captions()[0] == ptb.STANFORD


@pytest.mark.skipif(ptb.tokenizer_for_captions()[0] == ptb.OURS, reason="needs Java and pycocoevalcap (extra [eval])")
def test_stanfords_own():
    _, tokenize = ptb.tokenizer_for_captions()
    rows = golden_rows("captions")
    assert tokenize([row["caption"] for row in rows]) == [row["tokenized"] for row in rows]
