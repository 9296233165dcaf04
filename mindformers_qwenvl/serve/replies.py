"""Answers in OpenAI's shape, whole and streamed. Plain Python."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from mindformers_qwenvl.grounding.parse import parse

__all__ = ["Reply", "event", "model_list"]

DONE = "data: [DONE]\n\n"
LEAST = -9999.0  # stands for a log probability of minus infinity, which JSON does not have


def event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def model_list(names: Sequence[str], created: int, longest: int) -> dict[str, Any]:
    """The body of /v1/models; the first model is the base model."""
    models = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "mindformers-qwenvl",
            "root": names[0],
            "parent": names[0] if number else None,
            "max_model_len": longest,
        }
        for number, name in enumerate(names)
    ]
    return {"object": "list", "data": models}


class Reply:
    """The answer to one request, with a choice for each job.

    Args:
        tokenizer: gives the text of tokens, and the tags of boxes.
        model: its name as the request gives it.
        chat: whether it is a chat, not a raw completion.
        prompt_tokens: how many all prompts have together.
        sizes: for each choice, width and height in pixels of each picture in its prompt; None: no boxes are wanted.
        include_usage: whether a stream ends with the numbers of tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        model: str,
        chat: bool,
        prompt_tokens: int,
        sizes: Sequence[Sequence[tuple[int, int]]] | None,
        include_usage: bool = False,
    ):
        self.tokenizer, self.chat, self.sizes, self.include_usage = tokenizer, chat, sizes, include_usage
        self.vocabulary = getattr(tokenizer, "vocabulary", tokenizer)
        self.prompt_tokens = prompt_tokens
        self.head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
        }
        self.completion_tokens = 0
        self._texts: dict[int, str] = {}

    # ---- whole

    def whole(self, choices: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The body, from all pieces of each choice."""
        built = []
        for index, pieces in enumerate(choices):
            text = "".join(piece.text for piece in pieces)
            likely = [one for piece in pieces for one in piece.likely]
            self.completion_tokens += pieces[-1].tokens
            choice: dict[str, Any] = {"index": index, "finish_reason": pieces[-1].finish}
            choice["logprobs"] = self._logprobs(likely, 0) if likely else None
            if self.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            if self.sizes is not None:
                choice["boxes"] = self._boxes(index, text)
            built.append(choice)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self.head, "object": kind, "choices": built, "usage": self.usage}

    @property
    def usage(self) -> dict[str, int]:
        """Tokens so far; those of pictures count as part of the prompt."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    # ---- streamed

    def begin(self, count: int) -> str:
        """What comes before the text of `count` choices."""
        if not self.chat:
            return ""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return "".join(self._chunk(index, {"delta": delta, "finish_reason": None}) for index in range(count))

    def piece(self, index: int, piece: Any) -> str:
        """Events of a piece of choice `index`."""
        before = self._texts.get(index, "")
        self._texts[index] = before + piece.text
        events = ""
        likely = self._logprobs(piece.likely, len(before)) if piece.likely else None
        if piece.text or likely:
            text = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
            events += self._chunk(index, {**text, "finish_reason": None}, likely)
        if piece.finish:
            self.completion_tokens += piece.tokens
            last: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
            last["finish_reason"] = piece.finish
            if self.sizes is not None:
                last["boxes"] = self._boxes(index, self._texts[index])
            events += self._chunk(index, last)
        return events

    def end(self) -> str:
        """What comes after all choices."""
        usage = event({**self._stream_head, "choices": [], "usage": self.usage}) if self.include_usage else ""
        return usage + DONE

    @property
    def _stream_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk" if self.chat else "text_completion"}

    def _chunk(self, index: int, choice: dict[str, Any], logprobs: Any = None) -> str:
        chunk = {**self._stream_head, "choices": [{"index": index, **choice, "logprobs": logprobs}]}
        return event({**chunk, "usage": None} if self.include_usage else chunk)

    # ---- parts

    def _boxes(self, index: int, text: str) -> list[dict[str, Any]]:
        """Boxes of an answer. They refer to the latest picture, as in the original; `picture` counts from 1."""
        sizes = self.sizes[index] if self.sizes else ()
        boxes = []
        for box in parse(text, self.tokenizer.tags).boxes:
            found: dict[str, Any] = {"label": box.label, "picture": len(sizes) or None}
            found["pixels"] = list(box.to_pixels(*sizes[-1])) if sizes else None
            boxes.append({**found, "grid": list(box.coordinates)})
        return boxes

    def _logprobs(self, likely: Sequence[Any], offset: int) -> dict[str, Any]:
        if self.chat:
            content = [
                {
                    **self._token(one.token, one.log_probability),
                    "top_logprobs": [self._token(token, value) for token, value in one.top],
                }
                for one in likely
            ]
            return {"content": content, "refusal": None}
        tokens = [self._token(one.token, one.log_probability) for one in likely]
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {self._token(token, value)["token"]: max(value, LEAST) for token, value in one.top} for one in likely
            ],
            "text_offset": offsets,
        }

    def _token(self, index: int, log_probability: float) -> dict[str, Any]:
        try:
            token = self.vocabulary.token(index)
        except ValueError:  # the head has rows beyond the vocabulary
            token = ""
        raw = token.encode() if isinstance(token, str) else token
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(log_probability, LEAST), "bytes": list(raw)}
