"""Annotated boxes, converted to questions and answers with Qwen-VL's `<ref>` and `<box>`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.checks import is_number
from mindformers_qwenvl.datasets.convert.picture_finder import PictureFinder
from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from mindformers_qwenvl.grounding.boxes import GRID, Box
from mindformers_qwenvl.text.tags import box_text, picture_text, ref_text

__all__ = ["BOX_FORMATS", "BoxReader", "Labelled", "expressions"]

BOX_FORMATS = ("xywh", "xyxy")
EVERY = "Find every {label} in the picture."
ONE = "Find {label} in the picture."
# Rounding may put a box slightly outside its picture. Beyond this (thousandths) the numbers mean something else.
TOLERANCE = 10
FILE_KEYS = ("file_name", "img_path", "image_path", "image", "img_name", "img", "file", "filename")
TEXT_KEYS = (
    "sentences",
    "sentence",
    "sent",
    "expressions",
    "expression",
    "refexp",
    "phrases",
    "phrase",
    "caption",
    "text",
)
BOX_KEYS = ("bbox", "box")


@dataclass(frozen=True)
class Labelled:
    """One annotated box: four numbers in pixels, its names, and what these are.

    is_kind: they name a kind of thing ("dog"), which several boxes may share; else they describe this box ("the dog on
        the left").
    """

    numbers: Any
    labels: tuple[str, ...]
    is_kind: bool


class BoxReader:
    """Converts a picture with its boxes to a sample with a question and an answer for each name.

    Args:
        pictures: finds the pictures.
        user_role_name, assistant_role_name: the roles to write.
        report: counts the boxes that are left out.
        box_format: "xywh" (left, top, width, height: COCO) or "xyxy" (two corners).
        prompt: the question, with `{label}` in it; None: one question for kinds and another for descriptions.
    """

    def __init__(
        self,
        pictures: PictureFinder,
        user_role_name: str,
        assistant_role_name: str,
        report: ConversionReport,
        box_format: str = "xywh",
        prompt: str | None = None,
    ) -> None:
        if box_format not in BOX_FORMATS:
            raise ValueError(f"box_format must be {' or '.join(BOX_FORMATS)}, got {box_format!r}")
        if prompt is not None and "{label}" not in prompt:
            raise ValueError(f"the question for boxes must contain {{label}}, got {prompt!r}")
        self.pictures = pictures
        self.roles = (user_role_name, assistant_role_name)
        self.report = report
        self.is_corners = box_format == "xyxy"
        self.prompt = prompt

    @staticmethod
    def accepts(record: Any) -> bool:
        """Whether a record is a box (RefCOCO as a list), well-formed or not."""
        return isinstance(record, dict) and any(key in record for key in BOX_KEYS)

    def read(self, record: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """(sample, 1) for a record with a box, the name of a picture and expressions.

        Raises:
            UnusableError: something is missing; the message says what.
        """
        name = next((record[key] for key in FILE_KEYS if isinstance(record.get(key), str)), None)
        if name is None and isinstance(record.get("image_id"), int):
            name = f"COCO_train2014_{record['image_id']:012d}.jpg"
        if name is None:
            raise UnusableError("malformed record", f"none of {', '.join(FILE_KEYS)} names a picture")
        labels = expressions(record)
        if not labels:
            raise UnusableError("malformed record", f"none of {', '.join(TEXT_KEYS)} holds an expression")
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
        """The sample of one picture; `size` is (width, height), with None where it must be read from the file.

        Raises:
            UnusableError: there is no such picture, or no usable box in it.
        """
        path = self.pictures.find(name)
        if not all(is_number(length) and length > 0 for length in size):
            size = self.pictures.size(path)
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
            raise UnusableError("no boxes", f"{path} has no usable box")
        turns = []
        for (label, is_kind), ours in found.items():
            question = (self.prompt or (EVERY if is_kind else ONE)).replace("{label}", label)
            if not turns:
                question = picture_text(1, path) + question
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
            raise UnusableError("outside the picture; is --box_format right?", f"{numbers!r}")
        return Box.from_pixels((x1, y1, x2, y2), width, height)


def expressions(record: dict[str, Any]) -> tuple[str, ...]:
    """The texts that name the boxes of a record, each once, without tags and line breaks."""
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
