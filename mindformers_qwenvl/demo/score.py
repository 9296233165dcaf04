"""Are the answers right? Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.grounding import Box, iou, parse

__all__ = ["Mark", "Score", "mark", "score"]

WANTED_RIGHT, WANTED_IOU = 0.9, 0.5


@dataclass(frozen=True)
class Mark:
    """How one answer compares with the record it belongs to.

    right: the same word; for a box, an IoU of at least 0.5.
    box_iou: intersection over union of the answer's box and the true one, 0 without a box; None for words.
    said, true: the boxes of the answer and of the record, or None.
    """

    right: bool
    box_iou: float | None = None
    said: Box | None = None
    true: Box | None = None


def mark(record: dict[str, Any], answer: str) -> Mark:
    """Compare an answer with a record of `shapes.write_dataset`."""
    if record["topic"] != "box":
        return Mark(answer.strip() == record["answer"])
    true = parse(record["answer"]).boxes[0]
    said = next(iter(parse(answer).boxes), None)
    box_iou = iou(said, true) if said else 0.0
    return Mark(box_iou >= WANTED_IOU, box_iou, said, true)


@dataclass(frozen=True)
class Score:
    """Share of right answers to colour and shape questions, and mean intersection over union of the boxes."""

    colour: float
    shape: float
    box_iou: float

    @property
    def right(self) -> float:
        """Share of right answers to both kinds of questions."""
        return (self.colour + self.shape) / 2

    @property
    def passed(self) -> bool:
        """Whether the demo has learned enough."""
        return self.right >= WANTED_RIGHT and self.box_iou >= WANTED_IOU

    def __str__(self) -> str:
        return "\n".join(
            [
                f"colour questions right   {self.colour:6.1%}",
                f"shape questions right    {self.shape:6.1%}",
                f"both together            {self.right:6.1%}   (at least {WANTED_RIGHT:.0%} wanted)",
                f"mean IoU of the boxes    {self.box_iou:6.2f}   (at least {WANTED_IOU} wanted)",
            ]
        )


def score(records: Sequence[dict[str, Any]], marks: Sequence[Mark]) -> Score:
    """The score of all answers. A missing box counts as an IoU of 0."""
    values: dict[str, list[float]] = {"colour": [], "shape": [], "box": []}
    for record, found in zip(records, marks, strict=True):
        values[record["topic"]].append(float(found.right) if found.box_iou is None else found.box_iou)
    return Score(*(sum(numbers) / max(len(numbers), 1) for numbers in values.values()))
