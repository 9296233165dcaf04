"""Are the answers right? Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.grounding import iou, parse

__all__ = ["Score", "score"]

WANTED_RIGHT, WANTED_IOU = 0.9, 0.5


@dataclass(frozen=True)
class Score:
    """Share of right answers to colour and shape questions, and mean intersection over union of the boxes."""

    colour: float
    shape: float
    box_iou: float

    @property
    def right(self) -> float:
        return (self.colour + self.shape) / 2

    @property
    def passed(self) -> bool:
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


def score(records: list[dict[str, Any]], answers: list[str]) -> Score:
    """Compare answers with the records of `shapes.write_dataset`. An answer without a box counts as an IoU of 0."""
    marks: dict[str, list[float]] = {"colour": [], "shape": [], "box": []}
    for record, answer in zip(records, answers, strict=True):
        if record["topic"] == "box":
            found = parse(answer).boxes
            marks["box"].append(iou(found[0], parse(record["answer"]).boxes[0]) if found else 0.0)
        else:
            marks[record["topic"]].append(float(answer.strip() == record["answer"]))
    colour, shape, box = (sum(values) / max(len(values), 1) for values in marks.values())
    return Score(colour, shape, box)
