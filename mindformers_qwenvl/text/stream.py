"""Tokens to text as they come: whole characters, stop strings found across tokens. Plain Python."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["TextStream", "readable"]


def readable(tokenizer: Any, ids: Iterable[int]) -> list[int]:
    """The ids of an answer that have a text. A network can also write image tags, which mean nothing in an answer, and
    its head has rows beyond the vocabulary."""
    images = (tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id)
    return [i for i in ids if 0 <= i <= tokenizer.img_pad_id and i not in images]  # the last id of the vocabulary


class TextStream:
    """The text of an answer, piece by piece. Joined, the pieces are the whole answer: nothing is taken back.

    A piece never ends in part of a character, nor in what may be the beginning of a stop string.

    Args:
        tokenizer: a `Vocabulary` or `QwenVLTokenizer`.
        stops: texts that end the answer; they and what follows are not part of it.
        strip: leave out white space at both ends, as the original's `chat` does.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), strip: bool = True):
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        self.strip = strip
        self.stopped = False
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._vocabulary = getattr(tokenizer, "vocabulary", tokenizer)
        self._rest = ""  # not given out yet
        self._begun = False

    def add(self, token: int) -> str:
        """The text that `token` makes certain, or ""; `stopped` then says whether a stop string ended the answer."""
        new = ""
        for index in readable(self.tokenizer, [int(token)]):
            piece = self._vocabulary.token(index)
            new += self._bytes.decode(piece.encode() if isinstance(piece, str) else piece)
        return self._take(new)

    def end(self) -> str:
        """The text that was held back, once no token follows."""
        return self._take(self._bytes.decode(b"", final=True), last=True)

    def _take(self, new: str, last: bool = False) -> str:
        if self.stopped:
            return ""
        self._rest += new
        found = [place for place in map(self._rest.find, self.stops) if place >= 0]
        if found:
            self.stopped = last = True
            self._rest = self._rest[: min(found)]
        held = 0 if last else max((_beginning(self._rest, stop) for stop in self.stops), default=0)
        certain = self._rest[: len(self._rest) - held]
        if self.strip:
            certain = certain.rstrip()
        piece, self._rest = certain, self._rest[len(certain) :]
        if self.strip and not self._begun:
            piece = piece.lstrip()
        self._begun = self._begun or bool(piece)
        return piece


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`; `text` does not contain all of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
