"""Questions with answers: VQAv2, OK-VQA, TextVQA, VizWiz, GQA, OCR-VQA, AI2D, DocVQA, ChartQA. Plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_id
from mindformers_qwenvl.evaluate.data.source import DataError, Folder, load, text_list, value
from mindformers_qwenvl.evaluate.samples import Sample

__all__ = ["FORMS", "vqa_samples"]

FORMS = """\
the original's JSON Lines ({"image", "question", "question_id", "answer"}); VQA questions, with --annotations; TextVQA
and DocVQA ({"data": [...]}); VizWiz ([{"image", "question", "answers"}]); ChartQA ([{"imgname", "query", "label"}]);
GQA ({id: {"imageId", "question", "answer"}}); OCR-VQA ({id: {"imageURL", "questions", "answers"}})"""
PEOPLE = 2  # a single answer is the one that most people gave, not those of all who were asked
OCR_SPLITS = {"train": 1, "val": 2, "test": 3}


def vqa_samples(
    loaded: Any, path: Path, folder: Folder, *, split: str = "", annotations: Path | None = None, people: bool = False
) -> list[Sample]:
    """The questions of a file that was read.

    Args:
        loaded: what `load` gave; path: of the file, for messages.
        folder: of the pictures.
        split: of the file's records, if it holds several (OCR-VQA).
        annotations: the official answers, if they are in a file of their own.
        people: the metric needs the answers of several people.

    Raises:
        DataError: the file has another form, or lacks the answers that are needed.
    """
    samples = list(_samples(loaded, path, folder, split))
    answers = _annotations(annotations or _beside(path, loaded))
    if answers is not None:
        samples = [_answered(sample, answers, annotations or _beside(path, loaded)) for sample in samples]
    few = [sample for sample in samples if 0 < len(sample.answers) < PEOPLE] if people else []
    if few:
        raise DataError(
            f"{path}: question {few[0].id!r} has one answer, but the VQA score needs those of all people who were "
            "asked; give the official answers with --annotations (such as v2_mscoco_val2014_annotations.json)"
        )
    return samples


def _samples(loaded: Any, path: Path, folder: Folder, split: str) -> Iterator[Sample]:
    if isinstance(loaded, list):
        for number, row in enumerate(loaded, 1):
            where = f"{path}: record {number}"
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected an object, got {str(row)[:80]!r}")
            yield _row(row, number, where, folder)
    elif isinstance(loaded, dict) and isinstance(loaded.get("questions"), list):
        subset = str(loaded.get("data_subtype") or "").replace("test-dev", "test")
        for number, row in enumerate(loaded["questions"], 1):
            yield _official(row, f"{path}: question {number}", subset, folder)
    elif isinstance(loaded, dict) and isinstance(loaded.get("data"), list):
        for number, row in enumerate(loaded["data"], 1):
            yield _row(row, number, f"{path}: record {number} of `data`", folder)
    elif isinstance(loaded, dict) and loaded and all(isinstance(row, dict) for row in loaded.values()):
        for key, row in loaded.items():
            yield from _by_id(key, row, f"{path}: {key}", split, folder)
    else:
        raise DataError(f"{path}: not in a known form; the known forms are {FORMS}")


def _row(row: Mapping[str, Any], number: int, where: str, folder: Folder) -> Sample:
    if "imgname" in row:  # ChartQA
        image, question = value(row, "imgname", where), value(row, "query", where)
        answers, identity, keys = text_list(value(row, "label", where, (str, int, float)), where), number, {}
    else:
        image = row["image"] if row.get("image") else f"{value(row, ('image', 'image_id'), where, (str, int))}.jpg"
        question = value(row, "question", where)
        answers = text_list(row.get("answers", row.get("answer")), where)
        known = next((name for name in ("question_id", "questionId", "id") if name in row), None)
        identity = row[known] if known else number
        keys = {"question_id": identity, "questionId": identity, "image": Path(str(image)).name}
    if not is_id(identity):
        raise DataError(f"{where}: the id must be a text or a whole number, got {identity!r}")
    return Sample(identity, (folder.find(str(image)),), question, answers=answers, keys=keys)


def _official(row: Any, where: str, subset: str, folder: Folder) -> Sample:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {str(row)[:80]!r}")
    identity = value(row, "question_id", where, (str, int))
    image = row.get("image") or row.get("image_id")
    if isinstance(image, int):
        image = f"{subset}/COCO_{subset}_{image:012d}.jpg"
    if not isinstance(image, str):
        raise DataError(f"{where}: no image or image_id")
    keys = {"question_id": identity, "image": Path(image).name}
    return Sample(identity, (folder.find(image),), value(row, "question", where), keys=keys)


def _by_id(key: str, row: Mapping[str, Any], where: str, split: str, folder: Folder) -> Iterator[Sample]:
    if "imageId" in row:  # GQA
        image = folder.find(f"{value(row, 'imageId', where)}.jpg")
        answers = text_list(row.get("answer"), where)
        yield Sample(key, (image,), value(row, "question", where), answers=answers, keys={"questionId": key})
    elif "imageURL" in row:  # OCR-VQA: a book, with several questions
        if split in OCR_SPLITS and row.get("split") != OCR_SPLITS[split]:
            return
        ending = Path(value(row, "imageURL", where)).suffix or ".jpg"
        answers = row.get("answers") or []
        for number, question in enumerate(value(row, "questions", where, list)):
            right = (str(answers[number]),) if number < len(answers) else ()
            yield Sample(f"{key}-{number}", (folder.find(f"{key}{ending}"),), question, answers=right)
    else:
        raise DataError(f"{where}: not in a known form; the known forms are {FORMS}")


def _beside(path: Path, loaded: Any) -> Path | None:
    """The official answers to official questions, if they are in the same folder under their usual name."""
    if not (isinstance(loaded, dict) and "questions" in loaded):
        return None
    name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
    return path.with_name(name) if name != path.name and path.with_name(name).is_file() else None


def _annotations(path: Path | None) -> dict[str, tuple[str, ...]] | None:
    """Answers by question id, as texts; from VQA annotations, or any file with question_id and answers."""
    if path is None:
        return None
    loaded = load(path)
    rows = loaded.get("annotations", loaded.get("data")) if isinstance(loaded, dict) else loaded
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected answers, {{"annotations": [{{"question_id", "answers"}}]}}')
    answers = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}: annotation {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, got {str(row)[:80]!r}")
        key = value(row, ("question_id", "questionId", "image"), where, (str, int))
        answers[str(key)] = text_list(row.get("answers", row.get("answer")), where)
    return answers


def _answered(sample: Sample, answers: Mapping[str, tuple[str, ...]], path: Path | None) -> Sample:
    name = str(sample.id) if str(sample.id) in answers else str(sample.keys.get("image"))
    if name not in answers:
        raise DataError(f"{path}: no answers to question {sample.id!r}")
    return replace(sample, answers=answers[name])
