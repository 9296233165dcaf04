"""From the ids that a network wrote to text: whole answers, answers as they come, and generated rows. Plain Python.

`tokenizer` is a `Vocabulary` or a `QwenVLTokenizer`.

| function | of | used by |
|---|---|---|
| `chat_reply` | an answer, cut as the original's `chat` does | `QwenVL.chat` |
| `ReplyDecoder` | the same, token by token | `QwenVL.chat_stream` |
| `answer_text` | an answer, nothing lost | the command predict; `row_text` of chat models |
| `row_text` | a generated row: prompt and answer | `QwenVLProcessor`: pipeline and run_mode predict |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mindformers_qwenvl.text.layout import turn_ends
from mindformers_qwenvl.text.list_format import restore_image_paths
from mindformers_qwenvl.text.rows import Row
from mindformers_qwenvl.text.stream import TextStream, readable

__all__ = ["ReplyDecoder", "answer_text", "chat_reply", "row_text"]


def chat_reply(tokenizer: Any, ids: Iterable[int], errors: str = "replace") -> str:
    """What `chat` returns: the text of `ids` (without the prompt) up to the first `<|im_end|>` or `<|im_start|>`,
    stripped.

    As in the original, an answer without either loses its last token, which is the end of text unless
    `max_new_tokens` cut the answer. The original raises for ids that have no text; here they are left out.
    """
    ids = [int(i) for i in ids]
    end = _first(ids, turn_ends(tokenizer))
    return tokenizer.decode(readable(tokenizer, ids[: -1 if end is None else end]), errors=errors).strip()


def answer_text(tokenizer: Any, ids: Iterable[int], stops: Iterable[int], skip_special_tokens: bool = False) -> str:
    """The text of `ids` (without the prompt) up to the first of `stops`, stripped.

    Unlike `chat_reply` it keeps the last token of an answer that `max_new_tokens` cut: with a limit of a few tokens,
    that may be the word that was asked for.
    """
    ids = [int(i) for i in ids]
    return tokenizer.decode(readable(tokenizer, ids[: _first(ids, set(stops))]), skip_special_tokens).strip()


def row_text(
    tokenizer: Any,
    ids: Iterable[int],
    prompt: Row | None = None,
    *,
    answer_only: bool = False,
    skip_special_tokens: bool = False,
) -> str:
    """Text of a generated row (prompt and answer), without the end-of-text tokens at its end.

    Args:
        tokenizer: see the module.
        ids: the row.
        prompt: the prompt it begins with; its images then read `<img>path</img>`. None: not known, and they read
            `<img></img>`.
        answer_only: if the prompt is known, return only the answer, up to the end of the turn, stripped.
        skip_special_tokens: leave out the image, box and chat tokens too.
    """
    ids = [int(i) for i in ids]
    start = 0 if prompt is None else len(prompt)
    while len(ids) > start and ids[-1] == tokenizer.eod_id:
        ids.pop()
    answer = ids[start:]
    if prompt is None:
        return _decode(tokenizer, answer, skip_special_tokens)
    if answer_only:
        return answer_text(tokenizer, answer, turn_ends(tokenizer), skip_special_tokens)
    asked = restore_image_paths(_decode(tokenizer, ids[:start], skip_special_tokens), prompt.images, tokenizer.tags)
    return asked + _decode(tokenizer, answer, skip_special_tokens)


def _first(ids: Sequence[int], wanted: Iterable[int]) -> int | None:
    """Position of the first of `wanted`."""
    return next((position for position, i in enumerate(ids) if i in wanted), None)


def _decode(tokenizer: Any, ids: list[int], skip_special_tokens: bool) -> str:
    """Text of ids with whole images among them; image tags that do not close are left out."""
    try:
        return tokenizer.decode([i for i in ids if 0 <= i <= tokenizer.img_pad_id], skip_special_tokens)
    except ValueError:
        return tokenizer.decode(readable(tokenizer, ids), skip_special_tokens)


class ReplyDecoder:
    """`chat_reply` of an answer while it is being written: after each token, the text that is certain so far.

    The text never ends in part of a character, or in white space that could turn out to end the answer, and it only
    ever grows. It is one token behind, because the last token is not part of the reply.
    """

    def __init__(self, tokenizer: Any):
        self.text = ""
        self._stream = TextStream(tokenizer)
        self._ends = turn_ends(tokenizer)
        self._last: int | None = None
        self._ended = False

    def add(self, token: int) -> str:
        """The text so far, `token` being the newest."""
        self._ended = self._ended or self._last in self._ends
        if self._last is not None and not self._ended:  # certain, now that another one follows it
            self.text += self._stream.add(self._last)
        self._last = int(token)
        return self.text

    def end(self) -> str:
        """The whole text, once no token follows."""
        self.text += self._stream.end()
        return self.text
