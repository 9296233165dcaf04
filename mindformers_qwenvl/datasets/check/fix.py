"""Copies a dataset and corrects the faulty boxes that check-data finds, where it is certain what they mean."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.datasets.check.boxes import box_faults, fixed_boxes
from mindformers_qwenvl.datasets.check.job import Settings
from mindformers_qwenvl.files import Inputs, check_output, replacing

__all__ = ["Fixed", "fix_file"]


@dataclass(frozen=True)
class Fixed:
    """The file that was written, how many boxes it corrects, and how many it leaves because they are unclear."""

    path: Path
    boxes: int
    samples: int
    left: int

    def __str__(self) -> str:
        left = f"; {self.left:,} left as they are, because it is not certain what they mean" if self.left else ""
        return f"{self.path}: {self.boxes:,} boxes of {self.samples:,} samples corrected{left}"


def fix_file(path: str | os.PathLike[str], output: str | os.PathLike[str], settings: Settings) -> Fixed:
    """Write `output`, JSON Lines if its name ends with .jsonl, else a JSON list. Only boxes are changed.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: `output` is the dataset itself, or the dataset changed while it was read.
        AnnotationError: a record is malformed; nothing is written.
    """
    output = Path(output)
    check_output(output, path)
    inputs = Inputs(path)
    file = AnnotationFile(path, **settings.keys)
    is_lines = output.suffix.lower() == ".jsonl"
    boxes = samples = left = 0
    with replacing(output, "w") as target:
        target.write("" if is_lines else "[\n")
        for number in range(len(file)):
            record = file.record(number)
            file.turns(number, record)  # raises if it is malformed
            count = 0
            for turn in record[file.data_field]:
                turn[file.value_keyword], fixed = fixed_boxes(turn[file.value_keyword], settings.tags)
                count += fixed
                left += len(box_faults(turn[file.value_keyword], settings.tags))
            boxes, samples = boxes + count, samples + bool(count)
            target.write(_encoded(record) + ("\n" if is_lines or number + 1 == len(file) else ",\n"))
        target.write("" if is_lines else "]\n")
        inputs.check()
    return Fixed(output, boxes, samples, left)


def _encoded(record: dict) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only hold as an escape
        return json.dumps(record)
    return text
