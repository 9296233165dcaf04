"""How likely a network finds given texts after a prompt: the options of a multiple-choice question.

Original: eval_mm/evaluate_multiple_choice.py, which runs prompt and option together once for each option. Here options
that differ only in their last token share one row, so " A", " B", " C" and " D" cost one run of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from mindformers_qwenvl.chat.answer import check_prompts, check_tokenizer
from mindformers_qwenvl.generation.inputs import bucket
from mindformers_qwenvl.generation.prompt import Pictures, Query, make_prompt, prompt_columns
from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.text.columns import batch_columns
from mindformers_qwenvl.text.rows import ImageSpan, Row

__all__ = ["OptionTokens", "option_tokens", "score"]

POSITIONS = 8  # the number of positions is rounded up to a multiple of this: each number needs a graph of its own


@dataclass(frozen=True)
class OptionTokens:
    """losses: float32 [n], -log p of each token of an option; greedy: whether every token is the likeliest there."""

    losses: np.ndarray
    greedy: bool

    @property
    def loss(self) -> float:
        """The mean loss, by which options are compared."""
        return float(self.losses.mean())


class TokenLosses(nn.Cell):
    """-log p of given tokens at given places, and that of the likeliest token there.

    Inputs:
        input_ids: int32 [B, S], right-padded.
        positions: int32 [K], places in the flattened [B * S].
        targets: int32 [K], the tokens that are to follow.
        prompt_length: int32 [B], chooses the rotary base.
        images, image_context_pos: see `QwenVL`; both or neither.

    Outputs:
        float32 [K] each.
    """

    def __init__(self, network: Any):
        super().__init__(auto_prefix=False)  # parameters keep their names
        self.network = network
        self.log_softmax = P.LogSoftmax(-1)
        self.pick = P.GatherD()
        self.reshape = P.Reshape()
        self.cast = P.Cast()
        self.max = P.ReduceMax()

    def construct(self, input_ids, positions, targets, prompt_length, images=None, image_context_pos=None):
        network = self.network
        x = network.llm_model.transformer.wte(input_ids)
        if images is not None:
            batch, count, channels, height, width = images.shape
            vectors = network.vision_encoder(self.reshape(images, (batch * count, channels, height, width)))
            x = network.merge(x, vectors, image_context_pos)
        logits = network.llm_model(input_ids, x, prompt_length, positions=positions)
        likely = self.log_softmax(self.cast(logits, ms.float32))
        return -self.reshape(self.pick(likely, 1, self.reshape(targets, (-1, 1))), (-1,)), -self.max(likely, 1)


def _token_losses(network: Any) -> TokenLosses:
    """The cell of a network, made only once, because compiled graphs belong to their cell."""
    cell = network.__dict__.get("_token_losses")
    if cell is None:
        cell = TokenLosses(network).set_train(False)
        object.__setattr__(network, "_token_losses", cell)  # not as a child cell: it contains the network
    return cell


def option_tokens(
    network: Any,
    prompts: Sequence[Row],
    pictures: Sequence[Sequence[np.ndarray]],
    options: Sequence[Sequence[Sequence[int]]],
) -> list[list[OptionTokens]]:
    """For each prompt, how likely each of its options is; one run for all.

    Args:
        network: a `QwenVL`.
        prompts, pictures: see `answer.generate_answers`.
        options: for each prompt, the ids of each option.

    Raises:
        ValueError: an option has no tokens, or a prompt and its option are longer than the network takes.
    """
    rows: dict[tuple[int, tuple[int, ...]], int] = {}  # (prompt, what precedes the last token of the option) -> row
    wanted: list[tuple[int, int, int]] = []  # row, column, token
    spans: list[list[range]] = []
    for number, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
        spans.append([])
        for option in choices:
            option = tuple(map(int, option))
            if not option:
                raise ValueError(f"option {len(spans[-1]) + 1} of prompt {number + 1} has no tokens")
            row = rows.setdefault((number, option[:-1]), len(rows))
            spans[-1].append(range(len(wanted), len(wanted) + len(option)))
            wanted += [(row, len(prompt) - 1 + place, token) for place, token in enumerate(option)]
    if not wanted:
        return [[] for _ in prompts]
    longest = max(len(prompts[number]) + len(tail) for number, tail in rows)
    if longest > network.config.seq_length:
        raise ValueError(
            f"a prompt with its option has {longest} tokens, but the network takes {network.config.seq_length} "
            "(seq_length); shorten it"
        )
    check_prompts(network, prompts)
    extended = [_extended(prompts[number], tail) for number, tail in rows]
    losses, best = _run(network, extended, [pictures[number] for number, _ in rows], wanted)
    found = [[(losses[span.start : span.stop], best[span.start : span.stop]) for span in each] for each in spans]
    return [[OptionTokens(ours, bool((ours <= likeliest).all())) for ours, likeliest in each] for each in found]


def _extended(prompt: Row, tail: tuple[int, ...]) -> Row:
    return replace(prompt, input_ids=np.concatenate([prompt.input_ids, np.array(tail, np.int32)]))


def _run(
    network: Any,
    rows: Sequence[Row],
    pictures: Sequence[Sequence[np.ndarray]],
    wanted: Sequence[tuple[int, int, int]],
) -> tuple[np.ndarray, np.ndarray]:
    width = bucket(max(map(len, rows)), network.config.seq_length)
    slots, pad = network.config.num_queries, network.config.pad_token_id
    shown = [prompt_columns(row, opened, slots) for row, opened in zip(rows, pictures, strict=True)]
    given = batch_columns(shown, pad, length=width)
    fillers = -len(wanted) % POSITIONS
    positions = np.array([row * width + column for row, column, _ in wanted] + [0] * fillers, np.int32)
    targets = np.array([token for *_, token in wanted] + [0] * fillers, np.int32)
    lengths = np.array([len(row) for row in rows], np.int32)
    images = (Tensor(given["images"], ms.float32), Tensor(given["image_context_pos"])) if "images" in given else ()
    cell = _token_losses(network)
    phase = network.phase  # `generate` leaves the name of its own graph
    try:
        losses, best = cell(Tensor(given["input_ids"]), Tensor(positions), Tensor(targets), Tensor(lengths), *images)
    finally:
        network.phase = phase
    return losses.asnumpy()[: len(wanted)], best.asnumpy()[: len(wanted)]


def score(
    network: Any,
    prompts: Sequence[Query | Sequence[int] | Row],
    options: Sequence[str | Sequence[int]] | Sequence[Sequence[str | Sequence[int]]],
    tokenizer: Any = None,
    *,
    images: Sequence[Sequence[Any]] | None = None,
    chat_format: str = "raw",
    batch_size: int = 8,
) -> list[np.ndarray]:
    """`QwenVL.score`, see there."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts must be a list with at least one prompt, got {prompts!r}")
    template = getattr(tokenizer, "template", None)
    vocabulary = tokenizer if template is None else template.tokenizer
    if vocabulary is not None:
        check_tokenizer(network, vocabulary)
    transform = ImageTransform(network.config.vision.image_size) if template is None else template.image_transform
    pictures = Pictures(transform, getattr(template, "dataset_dir", None) or None)
    given = images if images is not None else [None] * len(prompts)
    if len(given) != len(prompts):
        raise ValueError(f"images: expected a list for each of the {len(prompts)} prompts, got {len(given)} lists")
    rows = [_row(network, prompt, own, vocabulary, chat_format) for prompt, own in zip(prompts, given, strict=True)]
    each = [_ids(one, vocabulary, number) for number, one in enumerate(_options(options, len(rows)))]
    losses: list[np.ndarray] = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        opened = [_opened(row, pictures) for row in rows[part]]
        found = option_tokens(network, rows[part], opened, each[part])
        losses += [np.array([option.loss for option in of], np.float32) for of in found]
    return losses


def _row(network: Any, prompt: Any, images: Sequence[Any] | None, tokenizer: Any, chat_format: str) -> Row:
    if isinstance(prompt, Row):
        return prompt
    if not isinstance(prompt, str) and len(prompt) and not isinstance(prompt[0], Mapping):
        return _row_of_ids(network, np.asarray(prompt, np.int32), images or ())
    if images is not None:
        raise ValueError("images= is only for prompts of token ids; a text names its own pictures")
    if tokenizer is None:
        raise ValueError("prompts of text need a tokenizer; only prompts of token ids work without one")
    return make_prompt(tokenizer, prompt, chat_format=chat_format)


def _row_of_ids(network: Any, ids: np.ndarray, images: Sequence[Any]) -> Row:
    """A row whose images are where the ids have their tags."""
    start = network.config.image_start_id
    begins, ends = np.flatnonzero(ids == start), np.flatnonzero(ids == start + 1)
    if len(begins) != len(ends) or len(begins) != len(images):
        raise ValueError(f"got {len(images)} images for a prompt with {len(begins)} start and {len(ends)} end tags")
    spans = tuple(ImageSpan(int(begin) + 1, int(end)) for begin, end in zip(begins, ends, strict=True))
    names = tuple(f"memory:{number}" for number in range(1, len(images) + 1))
    return Row(ids, names, spans, in_memory=dict(zip(names, images, strict=True)))


def _opened(row: Row, pictures: Pictures) -> list[np.ndarray]:
    """The pictures of a row; arrays float32 [3, H, W] are passed to the network as they are."""
    return [
        source if isinstance(source, np.ndarray) and source.dtype == np.float32 else pictures.pixels(source)
        for source in row.image_sources
    ]


def _options(options: Any, count: int) -> list[Any]:
    """Options of each prompt; the same for all, if they are a list of texts."""
    if len(options) and isinstance(options[0], str):
        return [options] * count
    if len(options) != count:
        raise ValueError(f"options: expected a list for each of the {count} prompts, got {len(options)} lists")
    return list(options)


def _ids(options: Sequence[str | Sequence[int]], tokenizer: Any, number: int) -> list[Sequence[int]]:
    if not len(options):
        raise ValueError(f"options: prompt {number}, counted from 0, has none; give each at least one")
    if tokenizer is None and any(isinstance(option, str) for option in options):
        raise ValueError("options of text need a tokenizer; only options of token ids work without one")
    return [tokenizer.encode_with_images(option).ids if isinstance(option, str) else option for option in options]
