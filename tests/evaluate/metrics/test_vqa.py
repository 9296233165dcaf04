"""Answers as the VQA score compares them."""

from __future__ import annotations

from mindformers_qwenvl.evaluate.metrics.vqa import normalised


def test_normalised_answers():
    assert normalised("The two dogs!") == "2 dogs"
    assert normalised("Isnt it somebody'd?") == "isn't it somebodyd"
    assert normalised("1,000 a.m.") == "1000 am"
