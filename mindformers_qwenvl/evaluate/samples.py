"""A sample of a benchmark: what is asked, and what is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LETTERS", "Sample"]

LETTERS = "ABCDEFGHIJ"  # of the options of a multiple-choice question


@dataclass(frozen=True)
class Sample:
    """One question. What a task does not have stays empty; without a truth there is no score, only an answer.

    id: unique within the file, for people and for continuing after an interruption.
    images: paths (relative to the folder of pictures) or `data:` addresses.
    question: the question; the expression of a grounding task; empty for captions.
    query: the whole text that is asked, `<img></img>` in place of each picture; None: the task's prompt makes it.
    answers: right answers, or the references of a caption.
    box: x1, y1, x2, y2 of the true box; size: width and height of its picture, in the same unit.
    hint, choices, right: of a multiple-choice question; `right` is the number of the right choice.
    group: what is scored together: the subtask of MME, the question that MMBench asks in several orders.
    keys: what identifies it in a submission, such as `question_id`.
    """

    id: str | int
    images: tuple[str, ...] = ()
    question: str = ""
    query: str | None = None
    answers: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None
    size: tuple[float, float] | None = None
    hint: str = ""
    choices: tuple[str, ...] = ()
    right: int | None = None
    group: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_truth(self) -> bool:
        """Whether an answer to it can be scored."""
        return bool(self.answers) or self.box is not None or self.right is not None
