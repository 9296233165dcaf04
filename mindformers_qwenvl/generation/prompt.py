"""From a query to the prompt of an answer: its tokens, and its pictures. Plain Python, numpy and Pillow.

All entry points use this: `QwenVL.chat` and `chat_stream`, the commands chat and predict, and `QwenVLProcessor`,
which serves MindFormers' pipeline and run_mode predict.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mindformers_qwenvl.pictures.images import ImageTransform, image_name
from mindformers_qwenvl.text.columns import image_positions
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE, make_context
from mindformers_qwenvl.text.list_format import from_list_format
from mindformers_qwenvl.text.rows import Row

__all__ = ["Pictures", "Query", "make_prompt", "prompt_columns", "prompt_that_fits"]

# A text, in which <img>path</img> is a picture, or a list of {"image": ...}, {"text": ...}, {"box": ..., "ref": ...}.
Query: TypeAlias = "str | Sequence[Mapping[str, Any]]"
Exchange: TypeAlias = "Sequence[Any]"  # (query, answer)


def prompt_that_fits(
    tokenizer: Any,
    query: Query,
    history: Sequence[Exchange] | None,
    system: str,
    *,
    config: Any,
    seq_length: int,
    answer_pictures: bool = False,
) -> Row:
    """The prompt of a query for a network of `seq_length`, with room for an answer.

    Where `max_window_size` would let the prompt outgrow the network, its oldest exchanges are left out. This keeps room
    for an answer of `max_new_tokens`, or of a quarter of `seq_length` if that is less.

    Args:
        tokenizer, query, history, system, answer_pictures: see `make_prompt`.
        config: a generation configuration from `settings_for`: max_new_tokens, max_window_size and chat_format.
        seq_length: the most tokens that prompt and answer may have together.

    Raises:
        ValueError: see `make_prompt`.
    """
    return make_prompt(
        tokenizer,
        query,
        history,
        system,
        max_window_size=config.max_window_size,
        chat_format=config.chat_format,
        longest=seq_length - min(config.max_new_tokens, seq_length // 4),
        answer_pictures=answer_pictures,
    )


def make_prompt(
    tokenizer: Any,
    query: Query,
    history: Sequence[Exchange] | None = None,
    system: str = SYSTEM_MESSAGE,
    *,
    max_window_size: int = 6144,
    chat_format: str = "chatml",
    longest: int | None = None,
    answer_pictures: bool = False,
) -> Row:
    """The prompt of a query after what was said before (original: `make_context`). Opens no picture.

    Args:
        tokenizer: a `Vocabulary` or `QwenVLTokenizer`.
        query: what the user says now; in list form an image may be anything `pictures.images.open_image` takes.
        history: earlier exchanges `(query, answer)`, oldest first.
        system: the system message.
        max_window_size: exchanges are taken, latest first, while system turn and history stay below this many tokens.
        chat_format: "chatml"; or "raw", the query alone, for the base model.
        longest: the oldest exchanges are left out until the whole prompt has at most this many tokens; the original
            would exceed what the network takes. None: no limit.
        answer_pictures: `<img>path</img>` in an answer of the history opens that picture, as in the original. A model
            can write any path, so it is off by default.

    Raises:
        ValueError: an image tag is unclosed or nested, an element or exchange has the wrong form, the chat format is
            unknown, or the query is empty.
    """
    in_memory: dict[str, Any] = {}
    past = [_exchange(exchange, number, tokenizer.tags, in_memory) for number, exchange in enumerate(history or ())]
    asked = _as_text(query, tokenizer.tags, in_memory)
    _, encoded = make_context(tokenizer, asked, past, system, max_window_size, chat_format, longest, answer_pictures)
    if not len(encoded):
        raise ValueError(f"the query {query!r} has neither text nor images")
    return Row(np.array(encoded.ids, np.int32), encoded.images, encoded.spans, in_memory=in_memory)


def _exchange(exchange: Exchange, number: int, tags: Any, in_memory: dict[str, Any]) -> tuple[str, str | None]:
    if isinstance(exchange, str | Mapping) or not isinstance(exchange, Sequence) or len(exchange) != 2:
        raise ValueError(f"history: item {number} must be a pair of query and answer, got {exchange!r}")
    query, answer = exchange
    if not (answer is None or isinstance(answer, str)):
        raise ValueError(f"history: the answer of item {number} must be a text, got {answer!r}")
    return _as_text(query, tags, in_memory), answer


def _as_text(query: Query, tags: Any, in_memory: dict[str, Any]) -> str:
    """The query as text. Images that are neither a path nor a URL get a name, under which `in_memory` then has them."""
    if isinstance(query, str):
        return query
    if isinstance(query, Mapping) or not isinstance(query, Sequence):
        raise ValueError(
            f'a query must be a text, or a list like [{{"image": path}}, {{"text": "..."}}], got {query!r}'
        )
    elements = []
    for element in query:
        image = element.get("image") if isinstance(element, Mapping) else None
        if image is not None and (name := image_name(image, in_memory)) is not image:
            element = {**element, "image": name}
        elements.append(element)
    return from_list_format(elements, tags)


def prompt_columns(prompt: Row, pictures: Sequence[np.ndarray], slots: int) -> dict[str, Any]:
    """A prompt as `batch_columns` takes it. pictures: float32 [3, H, W] of each image; slots: tokens of an image."""
    positions = image_positions(prompt.spans, len(prompt.spans), slots)
    return {"input_ids": prompt.input_ids, "images": pictures, "image_context_pos": positions}


class Pictures:
    """Opens the pictures of prompts, and keeps the latest ones that came from a path or a URL: a conversation needs
    them again in every turn.

    Args:
        transform: size, normalisation, and the policy of where pictures may come from.
        root: folder that relative paths start from.
        keep: how many to keep; 0: none.
    """

    def __init__(self, transform: ImageTransform, root: str | os.PathLike[str] | None = None, keep: int = 0):
        self.transform = transform
        self.root = root
        self.keep = keep
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def pixels(self, source: Any) -> np.ndarray:
        """float32 [3, H, W].

        Raises:
            FileNotFoundError, ImageError: names the picture and says why.
        """
        if not (self.keep and isinstance(source, str)):
            return self.transform.normalise(self.transform.pixels(source, root=self.root))
        if source not in self._kept:
            self._kept[source] = self.transform.normalise(self.transform.pixels(source, root=self.root))
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        self._kept.move_to_end(source)
        return self._kept[source]

    def of(self, prompt: Row) -> list[np.ndarray]:
        """The pictures of a prompt, in order."""
        return [self.pixels(source) for source in prompt.image_sources]
