"""What the engine is asked, and what it sends back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindformers_qwenvl.serve.choose import Likely, Nudges
from mindformers_qwenvl.serve.errors import ApiError
from mindformers_qwenvl.text.rows import Row

__all__ = ["Job", "Picture", "Piece"]


@dataclass(frozen=True)
class Picture:
    """A picture of a prompt: pixels uint8 [S, S, 3], the digest of them, and the size it had, in pixels."""

    digest: bytes
    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Piece:
    """What a step added to an answer: its text, and with log probabilities those of its tokens.

    finish: "stop" or "length" in the last piece, which also has `tokens`, those of the whole answer.
    """

    text: str
    likely: tuple[Likely, ...] = ()
    finish: str | None = None
    tokens: int = 0


@dataclass(eq=False)
class Job:
    """One answer to be written.

    prompt, pictures: what was asked. config: of `settings_for`. adapter: a name, or None for the base model.
    most: tokens of the answer, at most. stops: tokens that end it; stop_texts: texts that do. strip: see `TextStream`.
    seed: of what is drawn. nudges: see there. top: how many likeliest tokens to name, None: no log probabilities.
    deadline: `time.monotonic()` after which it is given up. send: takes each `Piece`, or the `ApiError` that ended the
    answer; called in the engine's thread.
    """

    prompt: Row
    pictures: Sequence[Picture]
    config: Any
    adapter: str | None
    most: int
    stops: Sequence[int]
    stop_texts: Sequence[str]
    strip: bool
    seed: Any
    nudges: Nudges
    top: int | None
    deadline: float
    send: Callable[[Piece | ApiError], None]
    stop_sequences: Sequence[Sequence[int]] = ()
    cancelled: bool = False
    asked: float = field(default_factory=time.monotonic)
