"""What the engine receives, and what it sends back."""

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
    """A picture of a prompt: pixels uint8 [S, S, 3], their digest, and its original size in pixels."""

    digest: bytes
    pixels: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class Piece:
    """What a step added to an answer: text and, if they are wanted, the log probabilities of its tokens.

    finish: "stop" or "length" in the last piece. tokens: how many the whole answer has; only in the last piece.
    """

    text: str
    likely: tuple[Likely, ...] = ()
    finish: str | None = None
    tokens: int = 0


@dataclass(eq=False)
class Job:
    """One answer to write.

    prompt, pictures: what was asked. config: from `settings_for`. adapter: a name, or None for the base model.
    most: the most tokens that the answer may have. stops: tokens that end it. stop_texts: texts that end it.
    stop_sequences: sequences of tokens that end it. strip: see `TextStream`. seed: of sampling. nudges: see `Nudges`.
    top: how many of the likeliest tokens to report; None: no log probabilities. deadline: the `time.monotonic()` at
    which it is given up. send: called in the engine's thread with each `Piece`, or the `ApiError` that ended the
    answer. asked: the `time.monotonic()` at which the request came.
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
