"""Conversations in the form that fine-tuning reads, as questions: the first exchange of each. Plain Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data.source import DataError, Folder
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.grounding import GRID, parse

__all__ = ["conversation_samples", "is_conversations"]

IMAGE_TAG = re.compile(r"<img>(.*?)</img>", re.DOTALL)


def is_conversations(loaded: Any) -> bool:
    """Whether a file that was read holds conversations."""
    return isinstance(loaded, list) and bool(loaded) and isinstance(loaded[0], dict) and "conversations" in loaded[0]


def conversation_samples(
    loaded: list[Any], path: Path, folder: Folder, left_out: dict[str, int], *, boxes: bool
) -> list[Sample]:
    """The first question and answer of each conversation, asked in the words of the user.

    Args:
        loaded: records with `conversations`, a list of {"from", "value"}.
        left_out: gets the counts of records that are not asked, by reason.
        boxes: True asks those whose answer has a box, False those whose answer has none.

    Raises:
        DataError: a record has another form.
    """
    samples = []
    for number, record in enumerate(loaded, 1):
        where = f"{path}: record {number}"
        turns = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DataError(f"{where}: expected `conversations`, a list of {{'from', 'value'}}")
        asked = [turn.get("value") for turn in turns if turn.get("from") == "user"][:1]
        said = [turn.get("value") for turn in turns if turn.get("from") == "assistant"][:1]
        if not all(isinstance(text, str) for text in asked + said) or not asked or not said:
            raise DataError(f"{where}: expected a question from `user` and an answer from `assistant`")
        found = parse(said[0]).boxes
        if bool(found) != boxes:
            reason = "an answer with a box" if found else "an answer without a box"
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        images = tuple(folder.find(name) for name in IMAGE_TAG.findall(asked[0]))
        query = IMAGE_TAG.sub("<img></img>", asked[0])
        identity = record.get("id", number)
        question = IMAGE_TAG.sub("", asked[0]).replace("Picture 1: ", "").strip()
        if boxes:
            box, size = tuple(map(float, found[0].coordinates)), (float(GRID - 1),) * 2  # in units of the grid
            samples.append(Sample(identity, images, question, query, box=box, size=size))
        else:
            samples.append(Sample(identity, images, question, query, answers=(said[0],)))
    return samples
