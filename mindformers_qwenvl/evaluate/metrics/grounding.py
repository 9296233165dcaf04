"""Does the box of an answer cover the right thing? (RefCOCO, RefCOCO+, RefCOCOg; original: evaluate_grounding.py)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["GroundingScore", "answer_box", "grounding_score"]

CORNERS = re.compile(r"\((.*?)\),\((.*?)\)")
GRID_END = 999  # the original reads 999 as the right and lower edge; `grounding.Box.to_pixels` divides by 1000
LARGE_ENOUGH = 0.5


@dataclass(frozen=True)
class GroundingScore:
    """iou: intersection over union, nan where neither box has an area; correct: it is 0.5 or more."""

    iou: float
    correct: bool


def answer_box(answer: str) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the first `(x,y),(x,y)` of an answer, on the grid of 0 to 999; zeros if there is none.

    Numbers may have white space, signs and fractions, and the corners may be the wrong way round; nothing is corrected.
    """
    found = CORNERS.search(answer)
    if not found:
        return (0.0,) * 4
    try:
        (x1, y1), (x2, y2) = (map(float, corner.split(",")) for corner in found.groups())
    except ValueError:  # not two numbers per corner
        return (0.0,) * 4
    return x1, y1, x2, y2


def grounding_score(answer: str, bbox: Sequence[float], width: float, height: float) -> GroundingScore:
    """Compare the first box of an answer with the true one, in float32 as the original does.

    Args:
        answer: of the model; `(x1,y1),(x2,y2)` on the grid of 0 to 999.
        bbox: x1, y1, x2, y2 of the true box, in pixels.
        width, height: of the picture, in pixels.
    """
    with np.errstate(all="ignore"):
        box = np.array(answer_box(answer), np.float64).astype(np.float32) / np.float32(GRID_END)
        box *= np.array([width, height, width, height], np.float32)
        true = np.array(bbox, np.float32)
        overlap = np.maximum(np.minimum(box[2:], true[2:]) - np.maximum(box[:2], true[:2]), np.float32(0))
        shared = overlap[0] * overlap[1]
        iou = shared / (_area(box) + _area(true) - shared)
    return GroundingScore(float(iou), bool(iou >= LARGE_ENOUGH))


def _area(box: np.ndarray) -> np.float32:
    return (box[2] - box[0]) * (box[3] - box[1])
