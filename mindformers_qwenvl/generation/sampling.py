"""How the host's `generate()` chooses tokens: as the original does, in numpy, on every device alike.

The host's processors run on device operators of which some have no CPU kernel (TopkExt, SortExt) unless
`context.postprocess_use_numpy` is set, which exists only where a YAML has been read. The logits are in numpy already
when they reach them (`GenerationMixin.postprocess`). Two of them differ from the original's besides: top-p drops the
token that reaches `top_p`, and the repetition penalty takes the padding for words that were said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Event
from typing import Any

import numpy as np
from mindformers.generation.logits_process import (
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)
from mindspore import Tensor

__all__ = ["EndAnswer", "RowByRow", "Sampling", "keep_top_p"]


class Sampling:
    """A base class for networks, before the host's `GenerationMixin`: its two methods that collect the processors.

    A `GenerationConfig` with an attribute `row_seeds` (a seed for each row of the batch: an int, or a list of ints)
    gives each row random numbers of its own. An answer then does not depend on the other rows of its batch, nor on
    numpy's global state, which otherwise (and with `generate(seed=...)`) decides.
    """

    def get_logits_processor(
        self, generation_config: Any, input_ids_seq_length: int, logits_processor: LogitsProcessorList | None
    ) -> RowByRow:
        """What changes the logits in greedy search too: the host's list, in numpy."""
        chosen = super().get_logits_processor(generation_config, input_ids_seq_length, logits_processor)
        return RowByRow(chosen, generation_config.pad_token_id)

    def get_logits_warper(self, generation_config: Any) -> RowByRow:
        """What shapes the distribution that is drawn from: temperature, then top-k (0: off), then top-p (1: off)."""
        warpers: list[LogitsProcessor | _TopP] = []
        if generation_config.temperature not in (None, 1.0):
            warpers.append(TemperatureLogitsWarper(generation_config.temperature))
        if generation_config.do_sample and generation_config.top_k:
            warpers.append(TopKLogitsWarper(generation_config.top_k, filter_value=-np.inf))
        if generation_config.do_sample and generation_config.top_p is not None and generation_config.top_p < 1:
            warpers.append(_TopP(generation_config.top_p))
        if generation_config.renormalize_logits is True:
            warpers.append(LogitNormalization())
        seeds = getattr(generation_config, "row_seeds", None)
        return RowByRow(warpers, generation_config.pad_token_id, seeds)


class RowByRow(LogitsProcessorList):
    """Logits processors in numpy, over one row after the other.

    Args:
        processors: the host's, or objects with `process_row(row, ids, scores)`, both arrays of one dimension.
        pad_token_id: what follows the tokens of a row, and is cut off before the processors see it.
        seeds: of each row: draw the token here, and leave all others the probability 0.
    """

    def __init__(self, processors: Iterable[Any], pad_token_id: int, seeds: Sequence[Any] | None = None):
        super().__init__()
        self.use_numpy = True
        self.pad_token_id = pad_token_id
        self.generators = None if seeds is None else [np.random.default_rng(seed) for seed in seeds]
        self.extend(processors)

    def __call__(
        self, input_ids: np.ndarray, scores: Any, is_finished: Sequence[bool] | None = None, **kwargs: Any
    ) -> np.ndarray:
        """float32 [B, V] of input_ids [B, S] and scores [B, V], which stay as they are; finished rows are left out."""
        scores = np.array(scores.asnumpy() if isinstance(scores, Tensor) else scores, np.float32)
        if self.generators is not None and len(self.generators) != len(scores):
            raise ValueError(f"row_seeds: {len(self.generators)} seeds for a batch of {len(scores)} rows")
        for row in range(len(scores)):
            if is_finished is not None and is_finished[row]:
                continue
            ids = self._without_padding(np.asarray(input_ids[row]))
            for processor in self:
                scores[row] = _apply(processor, row, ids, scores[row])
            if self.generators is not None:
                scores[row] = _draw(scores[row], self.generators[row])
        return scores

    def _without_padding(self, ids: np.ndarray) -> np.ndarray:
        said = np.flatnonzero(ids != self.pad_token_id)
        return ids[: said[-1] + 1] if len(said) else ids[:0]


def _apply(processor: Any, row: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if hasattr(processor, "process_row"):
        return processor.process_row(row, ids, scores)
    if type(processor) is RepetitionPenaltyLogitsProcessor:
        return processor.process_np(scores[None], np.unique(ids)[None])[0]
    if isinstance(processor, LogitsProcessor):
        if type(processor).process_np is not LogitsProcessor.process_np:
            return processor.process_np(scores[None], ids[None])[0]
        changed = processor.process_ms(Tensor(scores[None]), Tensor(ids[None]))
    else:
        changed = processor(ids[None], scores[None])
    return np.asarray(changed.asnumpy() if isinstance(changed, Tensor) else changed)[0]


class _TopP:
    def __init__(self, top_p: float):
        if not 0 <= top_p <= 1:
            raise ValueError(f"top_p is a probability from 0 to 1, got {top_p!r}")
        self.top_p = float(top_p)

    def process_row(self, row: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        output = np.full_like(scores, -np.inf)
        kept = keep_top_p(scores, self.top_p)
        output[kept] = scores[kept]
        return output


def keep_top_p(scores: np.ndarray, top_p: float) -> np.ndarray:
    """Indices of the fewest likeliest tokens whose probabilities sum up to `top_p` or more, at least one; [V] -> [n].

    As transformers 4.31 does, and the original's `top_k_logits`: the token that reaches the sum is in.
    """
    weights = np.exp(scores - scores.max())
    needed = top_p * weights.sum(dtype=np.float64)
    count = 256  # sorting the likeliest few is much cheaper than sorting 151,936
    while True:
        count = min(count, len(weights))
        best = np.argpartition(-weights, count - 1)[:count]
        best = best[np.argsort(-weights[best], kind="stable")]
        sums = np.cumsum(weights[best], dtype=np.float64)
        if sums[-1] >= needed or count == len(weights):
            return best[: np.searchsorted(sums, needed) + 1]
        count *= 16


def _draw(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scores [V] that leave one token, drawn with the probabilities softmax(scores)."""
    possible = np.flatnonzero(scores > -np.inf)
    sums = np.cumsum(np.exp(scores[possible] - scores.max()), dtype=np.float64)
    token = np.searchsorted(sums, generator.random() * sums[-1], side="right")
    output = np.full_like(scores, -np.inf)
    output[possible[token]] = 0
    return output


class EndAnswer:
    """Makes the end-of-text token certain once an answer ends with a stop sequence, or when told to.

    Original: qwen_generation_utils.py, StopWordsLogitsProcessor; it looks at the end of the prompt too, so that a stop
    word like a newline would end every answer before it began.

    Args:
        eos_token_id: the token.
        sequences: ids of the stop sequences.
        prompt_lengths: of each row.
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
        answer = ids[self.prompt_lengths[row] :].tolist()
        cancelled = self.cancelled is not None and self.cancelled.is_set()
        if cancelled or any(answer[-len(sequence) :] == sequence for sequence in self.sequences):
            scores[self.eos_token_id] = 2.0**15
        return scores
