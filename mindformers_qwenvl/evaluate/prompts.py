"""From samples to what a network is asked. Plain Python."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.evaluate.samples import LETTERS, Sample
from mindformers_qwenvl.evaluate.tasks import Task
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

__all__ = ["Asked", "Asking", "ask", "option_texts"]


@dataclass(frozen=True)
class Asking:
    """How samples are asked.

    prompt: the task's or the user's own, with {image}, {question}, {hint}, {options}.
    chat: whether in the chat frame, with the system message `system`.
    few_shot: how many examples with answers come before the question.
    examples: what they are drawn from; seed: of the draw.
    """

    prompt: str
    chat: bool
    few_shot: int = 0
    examples: Sequence[Sample] = ()
    seed: int = 0
    system: str = SYSTEM_MESSAGE

    @classmethod
    def of(cls, task: Task, *, prompt: str | None = None, chat: bool | None = None, **more: Any) -> Asking:
        """As the task says, unless something else is given.

        Raises:
            ValueError: the prompt has no {image}, or an unknown placeholder; or there are too few examples.
        """
        asking = cls(prompt or task.prompt, task.chat if chat is None else chat, **more)
        try:
            filled = asking.prompt.format(image="\0", question="", hint="", options="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"the prompt {asking.prompt!r} may hold only {{image}}, {{question}}, {{hint}}, {{options}}: {error!r}"
            ) from error
        if "\0" not in filled:
            raise ValueError(f"the prompt {asking.prompt!r} has no {{image}}, so the model would not see the picture")
        if asking.few_shot and len(asking.examples) < asking.few_shot:
            raise ValueError(f"{asking.few_shot} examples are to be drawn, but there are only {len(asking.examples)}")
        return asking


@dataclass(frozen=True)
class Asked:
    """text: what is asked, pictures as <img>name</img>; pictures: what the names stand for."""

    text: str
    pictures: Mapping[str, str]


def ask(sample: Sample, asking: Asking) -> Asked:
    """The text of a sample. Pictures get short names, which do not show in tokens and cannot contain tags."""
    pictures: dict[str, str] = {}
    text = "".join(
        f"{_fill(example, asking, pictures)} {_answer(example)}" for example in _examples(sample, asking)
    ) + _fill(sample, asking, pictures)
    return Asked(text, pictures)


def _examples(sample: Sample, asking: Asking) -> list[Sample]:
    """Drawn by the seed and the sample's id, so that order, batches and processes do not matter."""
    if not asking.few_shot:
        return []
    generator = random.Random(asking.seed << 32 | zlib.crc32(str(sample.id).encode()))
    return generator.sample(list(asking.examples), asking.few_shot)


def _answer(example: Sample) -> str:
    if example.right is not None:
        return LETTERS[example.right]
    if example.answers:
        return max(dict.fromkeys(example.answers), key=example.answers.count)  # of several, what most people said
    raise ValueError(f"the example {example.id!r} has no answer to show")


def _fill(sample: Sample, asking: Asking, pictures: dict[str, str]) -> str:
    names = []
    for source in sample.images:
        names.append(str(len(pictures) + 1))
        pictures[names[-1]] = source
    if sample.query is not None:
        pieces = sample.query.split("<img></img>")
        tags = [f"<img>{name}</img>" for name in names]
        return "".join(piece + tag for piece, tag in zip(pieces, [*tags, ""], strict=True))
    options = "\n".join(f"{LETTERS[number]}. {choice}" for number, choice in enumerate(sample.choices))
    return asking.prompt.format(
        image="</img>\n<img>".join(names), question=sample.question, hint=sample.hint or "N/A", options=options
    )


def option_texts(sample: Sample) -> list[str]:
    """What the options are compared by: " A", " B", ..."""
    return [f" {letter}" for letter in LETTERS[: len(sample.choices)]]
