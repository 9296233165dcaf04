"""From the tokens of an answer to its text, all at once or as they come. Plain Python."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from mindformers_qwenvl.text.layout import reply_text

__all__ = ["ReplyDecoder", "answer_text", "chat_reply"]


def chat_reply(tokenizer: Any, ids: Sequence[int]) -> str:
    """What `chat` returns of an answer: see `conversation.reply_text`.

    Ids that have no text, which a network can write but no answer means (image tags that nothing closes, rows of the
    head beyond the vocabulary), are left out; the original raises.
    """
    ids = [int(i) for i in ids]
    return reply_text(tokenizer, [*_readable(tokenizer, ids[:-1]), *ids[-1:]])


def answer_text(tokenizer: Any, ids: Sequence[int], stops: Iterable[int]) -> str:
    """The answer up to the first of `stops`, stripped. Unlike in `chat`, an answer that `max_new_tokens` cuts off keeps
    its last token: with few tokens to say it in, that may be the word that was asked for."""
    stops = set(stops)
    ids = [int(i) for i in ids]
    end = next((position for position, i in enumerate(ids) if i in stops), len(ids))
    return tokenizer.decode(_readable(tokenizer, ids[:end])).strip()


def _readable(tokenizer: Any, ids: Iterable[int]) -> list[int]:
    images = (tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id)
    return [i for i in ids if 0 <= i <= tokenizer.img_pad_id and i not in images]  # the last id of the vocabulary


class ReplyDecoder:
    """`chat_reply` of an answer while it is being written: after each token, the text that is certain by now.

    It never holds a part of a character, or white space that could turn out to be the last, and only ever grows. It is
    one token behind, because the last one does not belong to the reply.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.text = ""
        self._vocabulary = getattr(tokenizer, "vocabulary", tokenizer)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._all = ""  # with white space at both ends
        self._last: int | None = None
        self._ended = False

    def add(self, token: int) -> str:
        """The text so far, `token` being the newest."""
        self._write()
        self._last = int(token)
        return self.text

    def end(self) -> str:
        """The whole text, when no token follows."""
        if self._last in (self.tokenizer.im_end_id, self.tokenizer.im_start_id):
            self._ended = True
        self._all += self._bytes.decode(b"", final=True)
        self.text = self._all.strip()
        return self.text

    def _write(self) -> None:
        if self._last in (self.tokenizer.im_end_id, self.tokenizer.im_start_id):
            self._ended = True
        if self._last is None or self._ended:
            return
        for index in _readable(self.tokenizer, [self._last]):
            token = self._vocabulary.token(index)
            self._all += self._bytes.decode(token.encode() if isinstance(token, str) else token)
        self.text = self._all.strip()
