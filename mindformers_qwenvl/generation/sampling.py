"""How tokens are chosen: greedily, or drawn by temperature, top-k and top-p; repetition penalty. As in the original.

`check_sampling` checks the settings (a temperature of 0 is greedy), `Sampling` is a base class of the networks, and
`RowByRow` does the work, in numpy on every device.

Why not the host's processors as they are: they run on device operators, some of which have no CPU kernel (TopkExt,
SortExt) unless `context.postprocess_use_numpy` is set, which exists only where a YAML has been read; and the logits are
in numpy anyway when they get there (`GenerationMixin.postprocess`). Two of them also differ from the original's: top-p
drops the token that crosses `top_p`, and the repetition penalty penalises the padding token as if it were in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

from mindformers_qwenvl.checks import number, whole

__all__ = ["RowByRow", "Sampling", "check_sampling", "keep_top_p"]


def check_sampling(config: Any) -> None:
    """Check the settings of `config` (a `GenerationConfig`) that choose tokens. A temperature of 0 means greedy search:
    `do_sample` and `temperature` are set accordingly.

    Raises:
        ValueError: a setting is out of its range; names the setting, the range and the value.
    """
    whole("top_k", config.top_k, 0, optional=True, note="0 turns it off")
    number("top_p", config.top_p, 0, 1, optional=True, note="1 turns it off")
    number("temperature", config.temperature, 0, optional=True, note="0 is greedy search")
    number("repetition_penalty", config.repetition_penalty, above=0, optional=True, note="1 turns it off")
    if config.temperature == 0:
        config.do_sample, config.temperature = False, 1.0


class Sampling:
    """A base class for networks, ahead of the host's `GenerationMixin`: the two methods that collect the processors.

    A `GenerationConfig` with an attribute `row_seeds` (a seed for each row of the batch: an int, or a list of ints)
    gives each row random numbers of its own. Its answer then depends neither on the other rows of its batch nor on
    numpy's global random state, which is used otherwise (`generate(seed=...)` seeds it).
    """

    def get_logits_processor(
        self, generation_config: Any, input_ids_seq_length: int, logits_processor: LogitsProcessorList | None
    ) -> RowByRow:
        """Processors for greedy search and sampling alike: the host's list, in numpy."""
        chosen = super().get_logits_processor(generation_config, input_ids_seq_length, logits_processor)
        return RowByRow(chosen, generation_config.pad_token_id)

    def get_logits_warper(self, generation_config: Any) -> RowByRow:
        """Processors for sampling: temperature, then top-k (0: off), then top-p (1: off)."""
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
    """Logits processors in numpy, applied to one row after the other.

    Args:
        processors: the host's, or objects with `process_row(row, ids, scores)`, both arrays of one dimension.
        pad_token_id: padding after the tokens of a row is cut off before the processors see them.
        seeds: one for each row: the token is drawn here, and all others get probability 0.
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
        """float32 [B, V] from input_ids [B, S] and scores [B, V], which are not modified; finished rows are skipped."""
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
        self.top_p = float(number("top_p", top_p, 0, 1, note="1 turns it off"))

    def process_row(self, row: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        output = np.full_like(scores, -np.inf)
        kept = keep_top_p(scores, self.top_p)
        output[kept] = scores[kept]
        return output


def keep_top_p(scores: np.ndarray, top_p: float) -> np.ndarray:
    """Indices of the likeliest tokens, just enough for a total probability of `top_p`, at least one; [V] -> [n].

    As in transformers 4.31 and the original's `top_k_logits`, the token that crosses top_p is kept.
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
    """Scores [V] with one token left, drawn with the probabilities softmax(scores)."""
    possible = np.flatnonzero(scores > -np.inf)
    sums = np.cumsum(np.exp(scores[possible] - scores.max()), dtype=np.float64)
    token = np.searchsorted(sums, generator.random() * sums[-1], side="right")
    output = np.full_like(scores, -np.inf)
    output[possible[token]] = 0
    return output
