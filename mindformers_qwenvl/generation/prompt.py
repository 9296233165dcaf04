"""What was said, to the tokens and pictures of a prompt. Plain Python and numpy."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mindformers_qwenvl.pictures.images import ImageTransform, image_name
from mindformers_qwenvl.text.columns import NO_POSITION
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE, ImageSpan, from_list_format, make_context

__all__ = ["Pictures", "Prompt", "Query", "chat_prompt", "columns"]

# A text, in which <img>path</img> is a picture, or a list of {"image": ...}, {"text": ...}, {"box": ..., "ref": ...}.
Query: TypeAlias = "str | Sequence[Mapping[str, Any]]"
Exchange: TypeAlias = "Sequence[Any]"  # (query, answer)


@dataclass(frozen=True)
class Prompt:
    """One row before padding.

    ids: int32 [L]; text: what the ids say, pictures as <img>path</img>; spans: the slots of each picture; images: where
    the pictures come from, in the same order.
    """

    ids: np.ndarray
    text: str
    spans: tuple[ImageSpan, ...]
    images: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.ids)


def chat_prompt(
    tokenizer: Any,
    query: Query,
    history: Sequence[Exchange] | None = None,
    system: str = SYSTEM_MESSAGE,
    *,
    max_window_size: int = 6144,
    chat_format: str = "chatml",
    longest: int | None = None,
) -> Prompt:
    """The prompt of a query after what was said before (original: `make_context`).

    Args:
        tokenizer: a `Vocabulary` or `QwenVLTokenizer`.
        query: what the user says now.
        history: earlier exchanges `(query, answer)`, oldest first.
        system: the system message.
        max_window_size: an exchange is taken, latest first, while system and history stay below this many tokens.
        chat_format: "chatml"; or "raw": the query alone, with all special tokens, for the base model.
        longest: the oldest exchanges are left out until the whole prompt has at most so many tokens, where the original
            would go beyond what the network takes. None: any number.

    Raises:
        ValueError: an image tag is unclosed or nested, an element or exchange is of no known form, there is no such
            chat format, or the query says nothing.
    """
    sources: dict[str, Any] = {}
    said = [_exchange(exchange, number, tokenizer.tags, sources) for number, exchange in enumerate(history or ())]
    asked = _as_text(query, tokenizer.tags, sources)
    while True:
        text, row = make_context(tokenizer, asked, said, system, max_window_size, chat_format)
        if longest is None or len(row) <= longest or not said or chat_format == "raw":
            break
        said = said[1:]
    if not len(row):
        raise ValueError(f"the query {query!r} has neither text nor images")
    images = tuple(sources.get(name, name) for name in row.images)
    return Prompt(np.array(row.ids, np.int32), text, row.spans, images)


def _exchange(exchange: Exchange, number: int, tags: Any, sources: dict[str, Any]) -> tuple[str, str | None]:
    if isinstance(exchange, str | Mapping) or not isinstance(exchange, Sequence) or len(exchange) != 2:
        raise ValueError(f"history: item {number} must be a pair of query and answer, got {exchange!r}")
    query, answer = exchange
    if not (answer is None or isinstance(answer, str)):
        raise ValueError(f"history: the answer of item {number} must be a text, got {answer!r}")
    return _as_text(query, tags, sources), answer


def _as_text(query: Query, tags: Any, sources: dict[str, Any]) -> str:
    """The query with <img>name</img> for its pictures; those that are no path or web address get a name."""
    if isinstance(query, str):
        return query
    if isinstance(query, Mapping) or not isinstance(query, Sequence):
        raise ValueError(f'a query is a text, or a list like [{{"image": path}}, {{"text": "..."}}], got {query!r}')
    elements = []
    for element in query:
        image = element.get("image") if isinstance(element, Mapping) else None
        if image is not None and (name := image_name(image, sources)) is not image:
            element = {**element, "image": name}
        elements.append(element)
    return from_list_format(elements, tags)


class Pictures:
    """Opens pictures, and keeps the latest that came from a path or an address: a conversation meets them every turn.

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
        """float32 [3, H, W]; raises FileNotFoundError or ImageError, which name the picture and say why."""
        if not (self.keep and isinstance(source, str)):
            return self.transform.normalise(self.transform.pixels(source, root=self.root))
        if source not in self._kept:
            self._kept[source] = self.transform.normalise(self.transform.pixels(source, root=self.root))
            while len(self._kept) > self.keep:
                self._kept.popitem(last=False)
        self._kept.move_to_end(source)
        return self._kept[source]

    def of(self, prompt: Prompt) -> list[np.ndarray]:
        """The pictures of a prompt, in order."""
        return [self.pixels(source) for source in prompt.images]


def columns(
    prompts: Sequence[Prompt], pictures: Sequence[Sequence[np.ndarray]], pad_token_id: int
) -> dict[str, np.ndarray]:
    """Inputs of the network for a batch.

    Args:
        prompts: its rows.
        pictures: of each row, float32 [3, H, W] each.
        pad_token_id: what rows shorter than the longest are filled up with, on the right.

    Returns:
        input_ids int32 [B, S]; and, if there is any picture, images float32 [B, N, 3, H, W] and image_context_pos int32
        [B, N, Q, 2] of (row, position). N is the largest number of pictures of a row; a row that has fewer has black
        ones at position -1.
    """
    ids = np.full((len(prompts), max(map(len, prompts))), pad_token_id, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt.ids
    count = max(map(len, pictures))
    if not count:
        return {"input_ids": ids}
    pixels = next(picture for row in pictures for picture in row)
    span = next(span for prompt in prompts for span in prompt.spans)
    images = np.zeros((len(prompts), count, *pixels.shape), np.float32)
    positions = np.full((len(prompts), count, span.stop - span.start, 2), NO_POSITION, np.int32)
    positions[..., 0] = np.arange(len(prompts))[:, None, None]
    for row, prompt in enumerate(prompts):
        for number, (picture, span) in enumerate(zip(pictures[row], prompt.spans, strict=True)):
            images[row, number] = picture
            positions[row, number, :, 1] = np.arange(span.start, span.stop)
    return {"input_ids": ids, "images": images, "image_context_pos": positions}
