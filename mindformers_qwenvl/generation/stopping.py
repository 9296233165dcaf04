"""Where an answer ends: stop tokens, stop sequences, cancelling. Lengths are in settings.py (`max_new_tokens`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Event
from typing import Any

import numpy as np

from mindformers_qwenvl.checks import is_whole, whole

__all__ = ["EndAnswer", "NotYet", "end_ids", "stop_ids", "stop_sequences"]


def end_ids(given: Any) -> list[int]:
    """`eos_token_id` as a list: one id, or several.

    Raises:
        ValueError: an item is not a whole number of -1 or more; -1 is not a token: with it, no token ends an answer.
    """
    ids = [given] if is_whole(given) else given
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ValueError(f"eos_token_id must be the id of a token, or a list of ids, got {given!r}")
    return [int(whole("eos_token_id", i, -1)) for i in ids]


def stop_ids(config: Any, turn_ends: Iterable[int]) -> list[int]:
    """Tokens that end an answer: the end of text and, in ChatML, the tokens that end or begin a turn.

    Args:
        config: a generation configuration from `settings_for`.
        turn_ends: see `text.layout.turn_ends`; `QwenVLConfig.turn_ids` are the same.
    """
    ends = turn_ends if config.chat_format == "chatml" else ()
    return [*config.eos_token_id, *(i for i in ends if i not in config.eos_token_id)]


def stop_sequences(config: Any, given: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    """Sequences of ids that end an answer: `given`, and `stop_words_ids` of the configuration.

    Raises:
        ValueError: they are not lists of ids.
    """
    sequences = [*(given or ()), *(getattr(config, "stop_words_ids", None) or ())]
    for sequence in sequences:
        is_list = isinstance(sequence, Sequence | np.ndarray) and not isinstance(sequence, str)
        if not is_list or not len(sequence) or not all(is_whole(i, 0) for i in sequence):
            raise ValueError(f"stop_words_ids must be a list of lists of token ids, got the item {sequence!r}")
    return [[int(i) for i in sequence] for sequence in sequences]


class EndAnswer:
    """A logits processor that makes the end-of-text token certain once an answer ends with a stop sequence, or is
    cancelled.

    Original: qwen_generation_utils.py, StopWordsLogitsProcessor. That one also looks at the end of the prompt, so a
    stop word like a newline would end every answer before it began.

    Args:
        eos_token_id: the token.
        sequences: ids of the stop sequences.
        prompt_lengths: tokens of the prompt of each row.
        cancelled: once it is set, from any thread, every row ends.
    """

    def __init__(
        self,
        eos_token_id: int,
        sequences: Iterable[Sequence[int]],
        prompt_lengths: Sequence[int],
        cancelled: Event | None = None,
    ):
        self.eos_token_id = eos_token_id
        self.sequences = [list(map(int, sequence)) for sequence in sequences]
        self.prompt_lengths = list(prompt_lengths)
        self.cancelled = cancelled

    def process_row(self, row: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores [V] of row `row`, whose tokens so far are `ids` [L]."""
        answer = ids[self.prompt_lengths[row] :].tolist()
        cancelled = self.cancelled is not None and self.cancelled.is_set()
        if cancelled or any(answer[-len(sequence) :] == sequence for sequence in self.sequences):
            scores[self.eos_token_id] = 2.0**15
        return scores


class NotYet:
    """A logits processor that keeps an answer from ending before it has `min_new_tokens`.

    The host's own processor uses the length of the longest prompt for all rows, so an answer would depend on the other
    rows of its batch.

    Args:
        min_new_tokens: the fewest tokens that an answer may have.
        stops: the tokens that would end it.
        prompt_lengths: tokens of the prompt of each row.
    """

    def __init__(self, min_new_tokens: int, stops: Iterable[int], prompt_lengths: Sequence[int]):
        self.min_new_tokens = min_new_tokens
        self.stops = [i for i in stops if i >= 0]
        self.prompt_lengths = list(prompt_lengths)

    def process_row(self, row: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores [V] of row `row`, whose tokens so far are `ids` [L]."""
        if len(ids) - self.prompt_lengths[row] < self.min_new_tokens:
            scores[self.stops] = -np.inf
        return scores
