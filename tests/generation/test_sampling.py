"""How tokens are chosen, against plain re-statements of the original's (transformers 4.31) rules. No network."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindformers.generation import GenerationConfig
from mindformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)
from mindformers.generation.text_generator import GenerationMixin

from mindformers_qwenvl.generation.sampling import RowByRow, Sampling, check_sampling, keep_top_p

PAD = 9


class Chooser(Sampling, GenerationMixin):
    """The host's mixin without a network under it."""


def warper(**settings):
    config = GenerationConfig(pad_token_id=PAD, do_sample=True, **{"top_k": 0, "top_p": 1.0, **settings})
    return Chooser().get_logits_warper(config)


def softmax(scores):
    weights = np.exp(scores - scores.max(), dtype=np.float64)
    return weights / weights.sum()


def top_p_of_transformers(scores, top_p):
    """TopPLogitsWarper of transformers 4.31: from the least likely on, remove while the sum is at most 1 - top_p."""
    order = np.argsort(scores, kind="stable")
    removed = np.cumsum(softmax(scores)[order]) <= 1 - top_p
    removed[-1] = False
    return set(order[~removed])


@given(st.integers(0, 2**31), st.floats(0.01, 0.99), st.floats(0.1, 8), st.sampled_from([5, 300, 5000]))
def test_top_p_is_that_of_the_original(seed, top_p, spread, size):
    scores = (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)
    kept, expected = set(keep_top_p(scores, top_p)), top_p_of_transformers(scores, top_p)
    # Where the sum meets top_p to the last bits, one token more or less is a matter of rounding.
    assert len(kept ^ expected) <= 1
    probabilities = softmax(scores)
    assert probabilities[list(kept)].sum() >= top_p - 1e-9
    assert len(kept) == 1 or probabilities[list(kept)].sum() - probabilities[list(kept)].min() < top_p + 1e-9


def test_top_p_keeps_the_token_that_reaches_it():
    scores = np.log(np.float32([0.25, 0.5, 0.2, 0.05]))
    assert set(keep_top_p(scores, 0.6)) == {0, 1}
    assert set(keep_top_p(scores, 0.5)) == {1}
    assert set(keep_top_p(scores, 0.0)) == {1}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 0}, {0, 1, 2, 3}),  # off
        ({"top_k": None, "top_p": None}, {0, 1, 2, 3}),
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 3, "top_p": 0.88}, {1, 2}),  # of the three that are left; of all four it would take three
        ({"top_p": 0.9}, {1, 2, 0}),
        ({"temperature": 0.1, "top_p": 0.9}, {1}),
    ],
)
def test_warpers_in_their_order(settings, kept):
    scores = np.log(np.float32([[0.1, 0.5, 0.35, 0.05]]))
    out = warper(**settings)(np.array([[1]]), scores)
    assert set(np.flatnonzero(np.isfinite(out[0]))) == kept
    expected = scores[0] / settings.get("temperature", 1.0)
    np.testing.assert_allclose(out[0][list(kept)], expected[list(kept)], rtol=1e-6)


def test_the_callers_logits_stay_as_they_are():
    scores = np.log(np.float32([[0.1, 0.9]]))
    before = scores.copy()
    warper(top_p=0.5, row_seeds=[1])(np.array([[1]]), scores)
    np.testing.assert_array_equal(scores, before)


def processors(own=None, **settings):
    config = GenerationConfig(pad_token_id=PAD, **settings)
    return Chooser().get_logits_processor(config, 3, own or LogitsProcessorList())


def test_repetition_penalty_takes_words_not_padding():
    ids = np.array([[1, 2, 1, PAD, PAD], [0, PAD, 0, PAD, PAD]])
    scores = np.tile(np.float32([4, -4, 4, 4, 0, 0, 0, 0, 0, 4]), (2, 1))
    out = processors(repetition_penalty=2.0)(ids, scores)
    np.testing.assert_array_equal(out[0], [4, -8, 2, 4, 0, 0, 0, 0, 0, 4])
    np.testing.assert_array_equal(out[1], [2, -4, 4, 4, 0, 0, 0, 0, 0, 2])  # a pad token in the middle of the text
    finished = processors(repetition_penalty=2.0)(ids, scores, [True, False])
    np.testing.assert_array_equal(finished[0], scores[0])


def test_without_anything_to_do_the_list_is_empty():
    assert not processors()


class Doubling(LogitsProcessor):
    """A user's own processor, in MindSpore operators only."""

    def process_ms(self, logits, sequence_ids, **kwargs):
        return logits * 2


def test_processors_of_the_caller_are_used():
    own = LogitsProcessorList()
    own.append(Doubling())
    out = processors(own, repetition_penalty=2.0)(np.array([[0]]), ms.Tensor(np.float32([[4, 3]])))
    np.testing.assert_array_equal(out, [[4, 6]])
    twice = LogitsProcessorList()
    twice.append(RepetitionPenaltyLogitsProcessor(1.5))
    with pytest.raises(ValueError, match="custom logits processor"):
        processors(twice, repetition_penalty=2.0)


def test_a_row_draws_by_its_own_seed():
    scores = np.zeros((3, 1000), np.float32)
    ids = np.ones((3, 1), np.int32)

    def draw(seeds, rows=(0, 1, 2), finished=None):
        out = RowByRow([], PAD, seeds)(ids[list(rows)], scores[list(rows)], finished)
        return out.argmax(axis=1).tolist()

    together = draw([1, [2, 7], 3])
    assert len(set(together)) == 3
    assert together == draw([1, [2, 7], 3])
    assert [together[1]] == draw([[2, 7]], rows=[1])
    assert together[2] == draw([1, 2, 3], finished=[True, True, False])[2]
    with pytest.raises(ValueError, match="2 seeds for a batch of 3 rows"):
        draw([1, 2])


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    scores = np.log(np.float32(probabilities))[None]
    draw = RowByRow([], PAD, [0])
    counts = np.bincount([draw(np.array([[1]]), scores).argmax() for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, probabilities, atol=0.03)  # four standard deviations


@pytest.mark.parametrize("temperature", [0, 0.0])
def test_a_temperature_of_zero_is_greedy(temperature):
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=0)
    check_sampling(config)
    assert (config.do_sample, config.temperature) == (False, 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": -1}, r"top_k must be a whole number of 0 or more.*0 turns it off\), got -1"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"top_p": float("nan")}, "top_p must be a number from 0 to 1"),
        ({"top_p": 1.01}, "top_p must be a number from 0 to 1"),
        ({"temperature": float("inf")}, "temperature must be a number of 0 or more"),
        ({"temperature": "hot"}, "temperature must be a number of 0 or more"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    config = GenerationConfig()
    for name, value in settings.items():  # the host has checks of its own, and other messages
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        check_sampling(config)
