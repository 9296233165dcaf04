"""MME: one folder per subtask, with a text file of two yes-or-no questions for each picture. Plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mindformers_qwenvl.evaluate.data.source import DataError, Folder
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.files import read_text

__all__ = ["FORMS", "mme_samples"]

FORMS = """\
the folder MME_Benchmark_release (SUBTASK/1.png and 1.txt, or SUBTASK/images and SUBTASK/questions_answers_YN); the
folder of its eval_tool (SUBTASK.txt, a line each: picture, question, answer, with tabs between)"""
ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".webp")


def mme_samples(path: Path, folder: Folder) -> list[Sample]:
    """The questions below the folder `path`; see FORMS. Pictures are below `folder`, which may be the same.

    Raises:
        DataError: the folder has another form.
        FileNotFoundError: there is no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"--data {path}: no such folder; the data of MME is a folder")
    samples = [sample for file in sorted(path.glob("*.txt")) for sample in _of_file(file, folder)]
    for subtask in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        asked = subtask / "questions_answers_YN"
        for file in sorted((asked if asked.is_dir() else subtask).glob("*.txt")):
            samples += _of_picture(file, subtask, path, folder)
    if not samples:
        raise DataError(f"{path}: no questions of MME; expected {FORMS}")
    return samples


def _rows(file: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) != columns or cells[-1].lower() not in ("yes", "no"):
                what = "picture, question and " if columns == 3 else "question and "
                raise DataError(
                    f"{file}: line {number}: expected {what}Yes or No, separated by tabs, got {line[:80]!r}"
                )
            yield number, cells


def _of_file(file: Path, folder: Folder) -> Iterator[Sample]:
    for number, (image, question, answer) in _rows(file, 3):
        name = folder.find(f"{file.stem}/{image}")
        if not folder.has(name) and folder.has(f"{file.stem}/images/{image}"):
            name = f"{file.stem}/images/{image}"
        yield _sample(f"{file.stem}/{image}/{number}", name, question, answer, file.stem)


def _of_picture(file: Path, subtask: Path, path: Path, folder: Folder) -> Iterator[Sample]:
    beside = (subtask / place / f"{file.stem}{ending}" for place in ("", "images") for ending in ENDINGS)
    name = next((picture.relative_to(path).as_posix() for picture in beside if picture.is_file()), None)
    if name is None:
        name = f"{subtask.name}/{file.stem}{ENDINGS[0]}"
    for number, (question, answer) in _rows(file, 2):
        yield _sample(f"{subtask.name}/{file.stem}/{number}", folder.find(name), question, answer, subtask.name)


def _sample(identity: str, image: str, question: str, answer: str, subtask: str) -> Sample:
    return Sample(identity, (image,), question, answers=(answer,), group=subtask)
