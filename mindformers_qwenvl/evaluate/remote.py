"""An evaluation whose answers come from a server with OpenAI's interface, ours or another."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.chat.batches import one_line
from mindformers_qwenvl.chat.remote import Remote
from mindformers_qwenvl.chat.remote_chat import picture_address
from mindformers_qwenvl.evaluate.evaluation import Evaluation
from mindformers_qwenvl.evaluate.prompts import Asked, ask
from mindformers_qwenvl.evaluate.samples import Sample

__all__ = ["RemoteEvaluation", "content"]

IMAGE = re.compile(r"<img>(.*?)</img>")


def content(asked: Asked, address: Any) -> list[dict[str, Any]]:
    """What a sample asks as the content of a message: its pictures and the text between them, in order.

    Args:
        asked: see `prompts.ask`.
        address: a function from a picture's source to its web or `data:` address.
    """
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(IMAGE.split(asked.text)):
        if number % 2:
            parts.append({"type": "image_url", "image_url": {"url": address(asked.pictures[piece])}})
        elif piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


@dataclass(frozen=True)
class RemoteEvaluation(Evaluation):
    """As `Evaluation`, but the questions are sent to `remote`, whose model is `model`, `batch_size` at a time.

    Every question is a chat message, as servers take pictures nowhere else; answers are greedy. `config`,
    `network` and `tokenizer` are not used.
    """

    remote: Remote | None = None
    model: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "chat_format": "the server's", "min_new_tokens": None, "served_model": self.model}

    def _prepare(self) -> list[tuple[Sample, Any]]:
        if self.task.by_likelihood:
            raise ValueError(
                f"{self.task.name} compares its options by likelihood, which OpenAI's interface does not report "
                "for a given text; evaluate it with --model DIR"
            )
        return [(sample, ask(sample, self.asking)) for sample in self.samples]

    def _batches(self, left: Sequence[tuple[Sample, Any]]) -> Iterator[list[dict[str, Any]]]:
        with ThreadPoolExecutor(self.batch_size, "qwenvl-ask") as pool:
            for start in range(0, len(left), 4 * self.batch_size):  # the journal is written after each of these
                yield list(pool.map(self._record, left[start : start + 4 * self.batch_size]))

    def _record(self, one: tuple[Sample, Asked]) -> dict[str, Any]:
        sample, asked = one
        address = functools.partial(picture_address, root=self.root, policy=self.transform.policy)
        try:
            return {"id": sample.id, "answer": self.remote.ask(self._body(content(asked, address))).strip()}
        except (OSError, ValueError) as error:
            return {"id": sample.id, "error": one_line(error)}

    def _body(self, parts: list[dict[str, Any]]) -> Mapping[str, Any]:
        system = [{"role": "system", "content": self.asking.system}] if self.asking.chat else []
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": parts}],
            "max_tokens": self._lengths()[0],
            "temperature": 0,
        }
