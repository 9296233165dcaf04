"""Annotated boxes to questions and answers with Qwen-VL's `<ref>` and `<box>`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mindformers_qwenvl.datasets.convert.picture_finder import Pictures
from mindformers_qwenvl.datasets.convert.tally import Report, UnusableError
from mindformers_qwenvl.grounding.boxes import GRID, Box
from mindformers_qwenvl.text.tags import box_text, ref_text

__all__ = ["BOX_FORMATS", "BoxReader", "Labelled", "expressions", "is_number"]

BOX_FORMATS = ("xywh", "xyxy")
EVERY = "Find every {label} in the picture."
ONE = "Find {label} in the picture."
# A box may stand out of its picture by rounding. More than this (thousandths) and the numbers mean something else.
TOLERANCE = 10
FILE_KEYS = ("file_name", "img_path", "image_path", "image", "img_name", "img", "file", "filename")
TEXT_KEYS = ("sentences", "sentence", "expressions", "expression", "refexp", "phrases", "phrase", "caption", "text")
BOX_KEYS = ("bbox", "box")


@dataclass(frozen=True)
class Labelled:
    """One annotated box: four numbers in pixels, its names, and whether they are the name of a kind ("dog"), which
    boxes share, or describe this one ("the dog on the left")."""

    numbers: Any
    labels: tuple[str, ...]
    is_kind: bool


class BoxReader:
    """One picture with its boxes to one sample, a question and an answer for each name.

    Args:
        pictures: finds them.
        user_role_name, assistant_role_name: the roles to write.
        report: takes notes of boxes that are left out.
        box_format: "xywh" (left, top, width, height: COCO) or "xyxy" (two corners).
        prompt: the question, `{label}` in it; None: one for kinds, one for descriptions.
    """

    def __init__(
        self,
        pictures: Pictures,
        user_role_name: str,
        assistant_role_name: str,
        report: Report,
        box_format: str = "xywh",
        prompt: str | None = None,
    ) -> None:
        if box_format not in BOX_FORMATS:
            raise ValueError(f"box_format is {' or '.join(BOX_FORMATS)}, got {box_format!r}")
        if prompt is not None and "{label}" not in prompt:
            raise ValueError(f"the question needs a {{label}} in it, got {prompt!r}")
        self.pictures = pictures
        self.roles = (user_role_name, assistant_role_name)
        self.report = report
        self.is_corners = box_format == "xyxy"
        self.prompt = prompt

    @staticmethod
    def accepts(record: Any) -> bool:
        """Whether a record is one box with what it needs, well-formed or not (RefCOCO as a list)."""
        return isinstance(record, dict) and any(key in record for key in BOX_KEYS)

    def read(self, record: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """(sample, 1) of a record with a box, a name of a picture and expressions.

        Raises:
            UnusableError: says what is missing.
        """
        name = next((record[key] for key in FILE_KEYS if isinstance(record.get(key), str)), None)
        if name is None and isinstance(record.get("image_id"), int):
            name = f"COCO_train2014_{record['image_id']:012d}.jpg"
        if name is None:
            raise UnusableError("malformed record", f"no name of a picture in any of {', '.join(FILE_KEYS)}")
        labels = expressions(record)
        if not labels:
            raise UnusableError("malformed record", f"no expression in any of {', '.join(TEXT_KEYS)}")
        numbers = next(record[key] for key in BOX_KEYS if key in record)
        if isinstance(numbers, list | tuple) and numbers and isinstance(numbers[0], list | tuple):
            boxes = [Labelled(box, labels, False) for box in numbers]
        else:
            boxes = [Labelled(numbers, labels, False)]
        number = next((record[key] for key in ("id", "ref_id", "ann_id", "image_id") if key in record), None)
        return self.sample(number, name, (record.get("width"), record.get("height")), boxes), 1

    def sample(
        self, number: Any, name: str, size: tuple[float | None, float | None], boxes: Iterable[Labelled]
    ) -> dict[str, Any]:
        """The sample of one picture; `size` is (width, height), or None to read it from the file.

        Raises:
            UnusableError: no picture, or no box to ask for.
        """
        path = self.pictures.find(name)
        if not all(is_number(length) and length > 0 for length in size):
            size = self._size(path)
        found: dict[tuple[str, bool], list[Box]] = {}
        for labelled in boxes:
            try:
                box = self._box(labelled.numbers, *size)
            except UnusableError as error:
                self.report.notes[f"boxes left out ({error.kind})"] += 1
                continue
            for label in labelled.labels:
                found.setdefault((label, labelled.is_kind), []).append(box)
        if not found:
            raise UnusableError("no boxes", f"{path} has no box to ask for")
        turns = []
        for (label, is_kind), ours in found.items():
            question = (self.prompt or (EVERY if is_kind else ONE)).replace("{label}", label)
            if not turns:
                question = f"Picture 1: <img>{path}</img>\n{question}"
            answer = ref_text(label) + "".join(box_text(box.coordinates) for box in ours)
            turns += [{"from": self.roles[0], "value": question}, {"from": self.roles[1], "value": answer}]
        sample = {} if number is None else {"id": number if isinstance(number, str) else str(number)}
        return {**sample, "conversations": turns}

    def _box(self, numbers: Any, width: float, height: float) -> Box:
        if not isinstance(numbers, Sequence) or len(numbers) != 4 or not all(map(is_number, numbers)):
            raise UnusableError("not four numbers", f"{numbers!r}")
        x1, y1, x2, y2 = numbers
        if not self.is_corners:
            x2, y2 = x1 + x2, y1 + y2
        if x2 <= x1 or y2 <= y1:
            raise UnusableError("no width or no height", f"{numbers!r}")
        low, high = -TOLERANCE / GRID, 1 + TOLERANCE / GRID
        if min(x1 / width, y1 / height) < low or max(x2 / width, y2 / height) > high:
            raise UnusableError("outside of the picture; is --box_format right?", f"{numbers!r}")
        return Box.from_pixels((x1, y1, x2, y2), width, height)

    def _size(self, path: str) -> tuple[int, int]:
        try:
            with Image.open(self.pictures.location / path) as image:
                return image.size
        except Exception as error:  # a damaged header raises whatever the format's reader stumbles over
            raise UnusableError("broken picture", f"{path}: its size cannot be read ({error})") from error


def expressions(record: dict[str, Any]) -> tuple[str, ...]:
    """The texts that name the boxes of a record, each once; tags and line breaks in them are taken out."""
    for key in TEXT_KEYS:
        value = record.get(key)
        texts = [_text(item) for item in (value if isinstance(value, list) else [value])]
        cleaned = [" ".join(text.replace("<", " ").replace(">", " ").split()) for text in texts if text]
        if any(cleaned):
            return tuple(dict.fromkeys(text for text in cleaned if text))
    return ()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in ("raw", "sent", "sentence", "text") if isinstance(value.get(key), str)), "")
    return value if isinstance(value, str) else ""


def is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False
