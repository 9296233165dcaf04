"""Where an answer ends. No network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mindformers_qwenvl.generation.stopping import EndAnswer, stop_ids, stop_sequences


@pytest.mark.parametrize(
    ("chat_format", "eos", "expected"),
    [("chatml", [7], [7, 9, 8]), ("raw", [7], [7]), ("chatml", [8, 5], [8, 5, 9])],
)
def test_stop_tokens(chat_format, eos, expected):
    assert stop_ids(SimpleNamespace(chat_format=chat_format, eos_token_id=eos), (9, 8)) == expected


def test_stop_sequences_of_call_and_configuration():
    config = SimpleNamespace(stop_words_ids=[[3]])
    assert stop_sequences(config, [[1, 2], np.array([4])]) == [[1, 2], [4], [3]]
    assert stop_sequences(SimpleNamespace()) == []
    for bad in ("stop", 5, [], [-1], ["1"], [True]):
        with pytest.raises(ValueError, match="stop_words_ids must be a list of lists of token ids"):
            stop_sequences(config, [bad])


def test_an_answer_ends_after_a_stop_sequence_of_its_own():
    end = EndAnswer(0, [[4, 5], [7]], [3, 1])
    scores = np.zeros(10, np.float32)
    assert end.process_row(0, np.array([1, 4, 5]), scores.copy()).argmax() == 0 and not scores.any()
    assert not end.process_row(0, np.array([1, 4, 5]), scores.copy()).any()  # the prompt's
    assert not end.process_row(0, np.array([1, 1, 4, 5]), scores.copy()).any()  # half the prompt's
    assert end.process_row(0, np.array([1, 1, 1, 4, 5]), scores.copy())[0] == 2**15
    assert end.process_row(1, np.array([1, 7]), scores.copy())[0] == 2**15
    cancelled = SimpleNamespace(is_set=lambda: True)
    assert EndAnswer(0, [], [1], cancelled).process_row(0, np.array([1]), scores.copy())[0] == 2**15
