"""A checked request: what is asked of the model, and with which settings. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Asked", "Part", "Turn"]


@dataclass(frozen=True)
class Part:
    """A piece of a message: a text, or the address of a picture. where: the field it came from, for errors."""

    where: str
    text: str = ""
    picture: str | None = None


@dataclass(frozen=True)
class Turn:
    """A message. role: "system", "user" or "assistant"."""

    role: str
    parts: tuple[Part, ...]
    where: str

    @property
    def text(self) -> str:
        """The text of all its parts."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True)
class Asked:
    """A checked request. None stands for the model's own setting.

    turns: the messages of a chat. prompts: the texts of raw completions. top: how many of the likeliest tokens to
    report; None: no log probabilities.
    """

    model: str
    turns: tuple[Turn, ...] = ()
    prompts: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top: int | None = None
    stream: bool = False
    include_usage: bool = False
    parse_boxes: bool = False

    @property
    def chat(self) -> bool:
        """Whether it is a chat, not a raw completion."""
        return bool(self.turns)

    @property
    def fetches(self) -> bool:
        """Whether pictures may have to be fetched from other servers."""
        texts = [*self.prompts, *(part.picture or part.text for turn in self.turns for part in turn.parts)]
        return any(text[:5].lower() == "http:" or text[:6].lower() == "https:" or "<img>" in text for text in texts)
