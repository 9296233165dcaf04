"""AI2D: the folder of ai2d-all.zip, with a JSON file of questions for each diagram. Plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data.source import DataError, Folder, load, text_list, value
from mindformers_qwenvl.evaluate.samples import LETTERS, Sample

__all__ = ["FORMS", "ai2d_samples"]

FORMS = """\
the folder ai2d of ai2d-all.zip (questions/0.png.json, images/0.png), with ai2d_test_ids.csv in it for its splits"""
TEST_IDS = "ai2d_test_ids.csv"  # the pictures of the test split, one number per line; AI2D publishes it separately
LETTERED = "abc_images"  # pictures whose labels are letters, as some distributions have them


def ai2d_samples(
    path: Path, folder: Folder, left_out: dict[str, int], *, split: str = "", test_ids: Path | None = None
) -> list[Sample]:
    """The questions of the folder `path`, with their options; the right answer is the text of the right option.

    Some questions are about letters that replace the diagram's labels. They need the pictures in abc_images, which are
    not in ai2d-all.zip; without those the questions are left out.

    Args:
        path: see FORMS; folder: of the pictures, which may be the same.
        left_out: gets the counts of questions that are not asked, by reason.
        split: test, train, or "": test if the list of its pictures is there, else everything.
        test_ids: the list of the test pictures; None: the one in `path`.

    Raises:
        DataError: the folder has another form, or the split needs a list that is not there.
        FileNotFoundError: there is no such list.
    """
    files = sorted((path / "questions").glob("*.json"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise DataError(f"{path}: no questions of AI2D; expected {FORMS}")
    chosen = _chosen(path, split, test_ids)
    samples = []
    for file in files:
        name = file.name.removesuffix(".json")
        if chosen is None or (name.partition(".")[0] in chosen) == (split != "train"):
            samples += _of_picture(load(file), name, str(file), folder, left_out)
    return samples


def _chosen(path: Path, split: str, test_ids: Path | None) -> set[str] | None:
    """The numbers of the test pictures; None: all pictures are asked about."""
    file = test_ids or path / TEST_IDS
    if not file.is_file():
        if test_ids or split:
            raise FileNotFoundError(
                f"{file}: no such file. The pictures of AI2D's test split are listed in {TEST_IDS}, published "
                "separately from the data: put it into the folder, or give it with --annotations"
            )
        return None
    lines = file.read_text(encoding="utf-8-sig").split()
    if not lines or not all(line.strip(",").isdigit() for line in lines):
        raise DataError(f"{file}: expected one picture number per line")
    return {line.strip(",") for line in lines}


def _of_picture(content: Any, name: str, where: str, folder: Folder, left_out: dict[str, int]) -> Iterator[Sample]:
    questions = content.get("questions") if isinstance(content, dict) else None
    if not isinstance(questions, dict):
        raise DataError(f'{where}: expected {{"imageName", "questions": {{...}}}}')
    for question, row in questions.items():
        place = f"{where}: {question[:60]!r}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {str(row)[:80]!r}")
        options, right = text_list(row.get("answerTexts"), place), value(row, "correctAnswer", place, int)
        if not 0 <= right < len(options) <= len(LETTERS):
            raise DataError(f"{place}: correctAnswer {right} of {len(options)} answerTexts")
        image = f"images/{name}"
        if row.get("abcLabel"):
            image = f"{LETTERED}/{name}"
            if not folder.has(image):
                reason = f"about letters in the diagram, with no picture in {LETTERED}"
                left_out[reason] = left_out.get(reason, 0) + 1
                continue
        listed = "\n".join(f"{LETTERS[number]}. {option}" for number, option in enumerate(options))
        identity = value(row, "questionId", place, (str, int))
        yield Sample(identity, (folder.find(image),), f"{question}\nOptions: {listed}", answers=(options[right],))
