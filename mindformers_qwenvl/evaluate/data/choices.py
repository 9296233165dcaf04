"""Multiple-choice questions: ScienceQA, MMBench, SEED-Bench. Plain Python."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data.source import DataError, Folder, value
from mindformers_qwenvl.evaluate.samples import LETTERS, Sample

__all__ = ["FORMS", "choice_samples"]

FORMS = """\
the original's JSON Lines ({"image", "hint", "question", "choices", "answer"}, or {"prompt", "answer"} of SEED-Bench);
ScienceQA's problems.json; MMBench's .tsv; SEED-Bench's {"questions": [{"choice_a", ...}]}"""
ROTATION = 1_000_000  # MMBench numbers the orders of question 5 as 5, 1000005, 2000005, ...
PICTURES_IN_SEED = range(1, 10)  # question types about pictures; the others are about videos
IMAGE_TAG = re.compile(r"<img>(.*?)</img>")
IMAGE_KINDS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"GI": "gif", b"RI": "webp", b"BM": "bmp"}


def choice_samples(
    loaded: Any, path: Path, folder: Folder, left_out: dict[str, int], *, split: str = ""
) -> list[Sample]:
    """The questions of a file that was read; see FORMS.

    Args:
        left_out: gets the counts of records that are not asked, by reason.
        split: of ScienceQA: train, val or test ("" is test).

    Raises:
        DataError: the file has another form.
    """
    if isinstance(loaded, dict) and isinstance(loaded.get("questions"), list):
        return list(_seed(loaded["questions"], path, folder, left_out))
    if isinstance(loaded, dict) and loaded and all(isinstance(row, dict) for row in loaded.values()):
        return list(_science_qa(loaded, path, folder, left_out, split.partition("_")[0] or "test"))
    if not isinstance(loaded, list) or not all(isinstance(row, dict) for row in loaded):
        raise DataError(f"{path}: not in a known form; the known forms are {FORMS}")
    if loaded and "A" in loaded[0]:
        return list(_mmbench(loaded, path))
    return [_line(row, number, f"{path}: record {number}", folder) for number, row in enumerate(loaded, 1)]


def _line(row: dict[str, Any], number: int, where: str, folder: Folder) -> Sample:
    identity = row.get("index", row.get("question_id", row.get("id", number)))
    if "prompt" in row:  # SEED-Bench as the original converted it: the text is made already
        prompt = value(row, "prompt", where)
        images = tuple(folder.find(name) for name in IMAGE_TAG.findall(prompt))
        question = IMAGE_TAG.sub("<img></img>", prompt)
        choices = tuple(re.findall(r"(?:^|\n|Options: )[A-D]\. (.*)", prompt))
        return _sample(identity, images, question, "", choices, row.get("answer"), where, query=question)
    return _sample(
        identity,
        (folder.find(value(row, "image", where)),),
        value(row, "question", where),
        row.get("hint") or "",
        tuple(map(str, value(row, "choices", where, list))),
        row.get("answer"),
        where,
        rotates="index" in row,
    )


def _sample(
    identity: Any,
    images: tuple[str, ...],
    question: str,
    hint: str,
    choices: tuple[str, ...],
    right: Any,
    where: str,
    *,
    group: str = "",
    query: str | None = None,
    rotates: bool = False,
) -> Sample:
    if not 2 <= len(choices) <= len(LETTERS):
        raise DataError(f"{where}: expected 2 to {len(LETTERS)} choices, got {len(choices)}")
    if isinstance(right, str):
        right = LETTERS.find(right.strip().upper()) if len(right.strip()) == 1 else -1
    if right is not None and not (isinstance(right, int) and 0 <= right < len(choices)):
        raise DataError(f"{where}: the right answer must be the letter or number of one of {len(choices)} choices")
    keys = {"index": identity, "question_id": identity}
    if rotates and isinstance(identity, int):
        group = str(identity % ROTATION)
    return Sample(identity, images, question, query, hint=hint, choices=choices, right=right, group=group, keys=keys)


def _science_qa(
    problems: dict[str, Any], path: Path, folder: Folder, left_out: dict[str, int], split: str
) -> Iterator[Sample]:
    found = 0
    for key, row in problems.items():
        where = f"{path}: problem {key}"
        if value(row, "split", where) != split:
            continue
        found += 1
        if not row.get("image"):
            left_out["without a picture"] = left_out.get("without a picture", 0) + 1
            continue
        image = folder.find(f"{split}/{key}/{row['image']}")
        choices = tuple(map(str, value(row, "choices", where, list)))
        question = value(row, "question", where)
        yield _sample(key, (image,), question, row.get("hint") or "", choices, row.get("answer"), where)
    if not found:
        raise DataError(f"{path}: no problems of the split {split!r}")


def _seed(questions: list[Any], path: Path, folder: Folder, left_out: dict[str, int]) -> Iterator[Sample]:
    for number, row in enumerate(questions, 1):
        where = f"{path}: question {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, got {str(row)[:80]!r}")
        if value(row, "question_type_id", where, int) not in PICTURES_IN_SEED:
            left_out["about a video"] = left_out.get("about a video", 0) + 1
            continue
        choices = tuple(str(value(row, f"choice_{letter}", where, (str, int, float))) for letter in "abcd")
        image = folder.find(value(row, "data_id", where))
        identity = value(row, "question_id", where, (str, int))
        group = str(row["question_type_id"])
        yield _sample(
            identity, (image,), value(row, "question", where), "", choices, row.get("answer"), where, group=group
        )


def _mmbench(rows: list[dict[str, str]], path: Path) -> Iterator[Sample]:
    images: dict[int, str] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}: line {number}"
        try:
            index = int(value(row, "index", where))
        except ValueError:
            raise DataError(f"{where}: index must be a whole number, got {row['index']!r}") from None
        image = value(row, "image", where)
        if image.isdecimal():  # another order of an earlier question, whose row has the picture
            if int(image) not in images:
                raise DataError(f"{where}: the picture is that of row {image}, which is not above it")
            image = images[int(image)]
        else:
            image = _data_address(image, where)
        images[index] = image
        choices = tuple(row[letter] for letter in "ABCD" if row.get(letter) not in (None, "", "nan"))
        hint = row.get("hint") or ""
        right = row.get("answer") or None
        yield _sample(
            *(index, (image,), value(row, "question", where), "" if hint == "nan" else hint, choices, right, where),
            rotates=True,
        )


def _data_address(encoded: str, where: str) -> str:
    try:
        head = base64.b64decode(encoded[:64], validate=True)[:2]
    except (binascii.Error, ValueError):
        raise DataError(f"{where}: the picture is not base64: {encoded[:40]!r}") from None
    return f"data:image/{IMAGE_KINDS.get(head, 'jpeg')};base64,{encoded}"
