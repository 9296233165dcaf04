"""The next token of a row, as the host's `generate()` would choose it after OpenAI's penalties are applied."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mindformers.generation.logits_process import LogitsProcessorList

from mindformers_qwenvl.generation.sampling import RowByRow
from mindformers_qwenvl.generation.stopping import NotYet

__all__ = ["Chooser", "Likely", "Nudges", "likely"]


@dataclass(frozen=True)
class Nudges:
    """What is added to logits before a token is chosen, as OpenAI defines it.

    presence: subtracted from the logit of each token that is in the answer. frequency: subtracted once for each time
    the token is in it. bias: token id -> what is added to its logit.
    """

    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)

    def apply(self, answer: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """Logits float32 [V] for the token after `answer`; the argument may be modified."""
        if answer and (self.presence or self.frequency):
            ids, counts = np.unique(np.asarray(answer), return_counts=True)
            logits[ids] -= self.presence + self.frequency * counts
        for token, value in self.bias.items():
            logits[token] += value
        return logits


class Chooser:
    """Chooses the tokens of one row.

    Args:
        network: its logits processors are used, see `generation.sampling.Sampling`.
        config: from `settings_for`.
        prompt: its tokens.
        stops: the tokens that end the answer.
        seed: an int or a list of ints. The tokens that are drawn depend on it, not on other rows.
        nudges: see `Nudges`.
    """

    def __init__(self, network: Any, config: Any, prompt: np.ndarray, stops: Sequence[int], seed: Any, nudges: Nudges):
        config = copy.copy(config)
        processors: list[Any] = []
        if config.min_new_tokens:
            processors.append(NotYet(config.min_new_tokens, stops, [len(prompt)]))
            config.min_new_tokens = None
        config.eos_token_id, config.row_seeds = list(stops), [seed]
        chosen = network.get_logits_processor(config, len(prompt), LogitsProcessorList())
        # -1: nothing is cut off as padding. There is none here, and an answer may hold the padding token as its own.
        self.processors = RowByRow([*processors, *chosen], -1)
        self.warper = network.get_logits_warper(config) if config.do_sample else None
        if self.warper is not None:
            self.warper.pad_token_id = -1
        self.prompt = np.asarray(prompt, np.int64)
        self.nudges = nudges

    def choose(self, answer: Sequence[int], logits: np.ndarray) -> int:
        """The token after `answer`, from logits float32 [V]."""
        logits = self.nudges.apply(answer, logits.copy())
        ids = np.concatenate([self.prompt, np.asarray(answer, np.int64)])[None]
        scores = self.processors(ids, logits[None])
        if self.warper is not None:
            scores = self.warper(ids, scores)
        return int(scores[0].argmax())


@dataclass(frozen=True)
class Likely:
    """The log probability of a token, and (id, log probability) of the likeliest ones at its place, likeliest first."""

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...]


def likely(token: int, logits: np.ndarray, count: int) -> Likely:
    """`Likely` of `token` with the `count` likeliest tokens, from the network's own logits float32 [V], before
    temperature and penalties."""
    logits = logits.astype(np.float64)
    highest = logits.max()
    normalised = logits - (highest + np.log(np.exp(logits - highest).sum()))
    best = np.argpartition(-normalised, count)[:count] if count else np.empty(0, int)
    best = best[np.argsort(-normalised[best], kind="stable")]
    return Likely(token, float(normalised[token]), tuple((int(i), float(normalised[i])) for i in best))
