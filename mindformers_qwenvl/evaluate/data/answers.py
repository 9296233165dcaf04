"""Answers that exist already, with the right ones: the rows that `evaluate --score` reads. Plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data.source import DataError, load, text_list, value
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.scoring import Answered
from mindformers_qwenvl.evaluate.tasks import Task

__all__ = ["FORMS", "read_answers"]

FORMS = {
    "grounding": '{"answer": "(1,2),(3,4)", "bbox": [x1, y1, x2, y2], "width": ..., "height": ...}, in pixels',
    "captions": '{"caption": "...", "references": ["...", ...]}',
    "choice": '{"losses": [...] or "prediction": 0, "answer": 0, "choices": [...]}',
    "rotations": '{"index": 1000005, "losses": [...] or "prediction": 0, "answer": 0, "choices": [...]}',
    "mme": '{"answer": "Yes", "answers": ["Yes"], "group": "color", "image": "1.jpg"}',
    "": '{"answer": "...", "answers": ["...", ...]}',
}


def read_answers(task: Task, path: Path) -> list[Answered]:
    """The rows of a JSON Lines file; scores.jsonl of an earlier call is one.

    Raises:
        DataError: a row has another form; the message says which is needed.
    """
    rows = load(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected one JSON object per line: {FORMS.get(task.metric, FORMS[''])}")
    answered = []
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        try:
            answered.append(_row(task, row, number, where))
        except DataError as error:
            raise DataError(f"{error}. {task.name} takes rows like {FORMS.get(task.metric, FORMS[''])}") from None
    return answered


def _row(task: Task, row: Any, number: int, where: str) -> Answered:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, got {str(row)[:80]!r}")
    identity = next((row[name] for name in ("id", "question_id", "image_id", "index") if name in row), number)
    if task.metric == "grounding":
        box = value(row, "bbox", where, list)
        if len(box) != 4 or not all(isinstance(one, int | float) for one in box):
            raise DataError(f"{where}: bbox must be four numbers, got {box!r}")
        size = (value(row, "width", where, (int, float)), value(row, "height", where, (int, float)))
        return Answered(Sample(identity, box=tuple(box), size=size), value(row, "answer", where))
    if task.metric == "captions":
        references = text_list(value(row, ("references", "answers"), where, list), where)
        if not references:
            raise DataError(f"{where}: no references")
        return Answered(Sample(identity, answers=references), value(row, ("caption", "answer"), where))
    if task.metric in ("choice", "rotations"):
        return _choice(row, identity, where)
    answers = text_list(value(row, "answers", where, (list, str)), where)
    if not answers:
        raise DataError(f"{where}: no answers")
    group, image = str(row.get("group", "")), str(row.get("image", identity))
    return Answered(Sample(identity, (image,), answers=answers, group=group), value(row, "answer", where))


def _choice(row: dict[str, Any], identity: Any, where: str) -> Answered:
    losses = row.get("losses") or ()
    if not isinstance(losses, list | tuple) or not all(isinstance(loss, int | float) for loss in losses):
        raise DataError(f"{where}: losses must be a list of numbers, got {losses!r}")
    prediction = row.get("prediction")
    if not losses and not (isinstance(prediction, int) and prediction >= 0):
        raise DataError(f"{where}: neither losses nor a prediction")
    choices = tuple(map(str, row.get("choices") or ()))
    if losses and choices and len(losses) != len(choices):
        raise DataError(f"{where}: {len(losses)} losses for {len(choices)} choices")
    right = value(row, "answer", where, int)
    group = row.get("group") or (str(identity % 1_000_000) if isinstance(identity, int) and "index" in row else "")
    sample = Sample(identity, choices=choices, right=right, group=str(group))
    return Answered(sample, losses=tuple(losses), prediction=None if losses else prediction)
