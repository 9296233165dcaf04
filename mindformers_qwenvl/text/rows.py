"""Tokens with the images among them: `Encoded`, a piece of a row, and `Row`, the whole. Python and numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["IGNORE", "Encoded", "ImageSpan", "Row", "join"]

IGNORE = -100  # label of a token that is not trained


@dataclass(frozen=True)
class ImageSpan:
    """Token positions of one image's slots, half-open: `stop - start` slots, tags not included."""

    start: int
    stop: int


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text; `images[i]` is the path (or URL) whose slots are at `spans[i]`."""

    ids: list[int]
    images: tuple[str, ...] = ()
    spans: tuple[ImageSpan, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def join(parts: Iterable[Encoded]) -> Encoded:
    """The parts one after another, spans shifted to match."""
    ids: list[int] = []
    images: list[str] = []
    spans: list[ImageSpan] = []
    for part in parts:
        spans += (ImageSpan(span.start + len(ids), span.stop + len(ids)) for span in part.spans)
        images += part.images
        ids += part.ids
    return Encoded(ids, tuple(images), tuple(spans))


@dataclass(frozen=True)
class Row:
    """One row of a batch before padding: a training sample, or the prompt of a question.

    input_ids: int32 [L].
    images: paths, URLs or names of the images, in order of appearance.
    spans: the token positions of each image's slots.
    labels: int32 [L], IGNORE where not trained; None in a prompt.
    in_memory: the images that are neither a path nor a URL, by the names that they were given.
    """

    input_ids: np.ndarray
    images: tuple[str, ...] = ()
    spans: tuple[ImageSpan, ...] = ()
    labels: np.ndarray | None = None
    in_memory: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def image_sources(self) -> list[Any]:
        """What to open for each image: its path or URL, or the image itself."""
        return [self.in_memory.get(name, name) for name in self.images]
