"""Questions from a JSON Lines file. Plain Python."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.checks import is_id
from mindformers_qwenvl.files import read_text
from mindformers_qwenvl.generation.prompt import Query

__all__ = ["BadQuestion", "Question", "batches_by_size", "read_questions"]

TEXT_KEYS = ("text", "question")
IMAGE_KEYS = ("image", "images")
KEYS = ("id", *IMAGE_KEYS, *TEXT_KEYS, "query", "history", "system")


@dataclass(frozen=True)
class Question:
    """A question. id: that of the line, or its number; history: earlier exchanges; system: None for the default."""

    id: str | int
    query: Query
    history: tuple[Sequence[Any], ...] = ()
    system: str | None = None


@dataclass(frozen=True)
class BadQuestion:
    """A line that is not a question, and why."""

    id: str | int
    error: str


def read_questions(path: str | os.PathLike[str]) -> list[Question | BadQuestion]:
    """The questions of a file, one JSON object a line; empty lines are skipped.

    `{"id": "a", "images": ["1.png", "2.png"], "text": "Compare them."}`: `image` may be used for a single picture, and
    `question` instead of `text`. Or `{"id": "b", "query": [{"image": "1.png"}, {"text": "..."}]}`; `query` may also be
    a text with <img> tags. Both may have `history`, a list of [query, answer], and `system`. The default `id` is the
    number of the line.

    Raises:
        ValueError: two lines have the same id, so their answers could not be told apart; or the file is not UTF-8, not
            a regular file, or a JSON list.
        OSError: the file cannot be read.
    """
    questions: list[Question | BadQuestion] = []
    lines: dict[str, int] = {}
    text = read_text(path)
    if text.lstrip().startswith("["):
        raise ValueError(f"{path} is a JSON list; JSON Lines are expected, one question a line")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        question = _question(line, number)
        first = lines.setdefault(str(question.id), number)
        if first != number:
            raise ValueError(f"{path}: lines {first} and {number} have the same id {question.id!r}; ids must differ")
        questions.append(question)
    return questions


def _question(line: str, number: int) -> Question | BadQuestion:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        return BadQuestion(number, f"line {number} is not JSON: {reason}")
    except (ValueError, RecursionError) as error:
        return BadQuestion(number, f"line {number} cannot be read as JSON: {str(error)[:80]}")
    if not isinstance(record, dict):
        return BadQuestion(number, f"line {number}: expected a JSON object, got {line.strip()[:80]}")
    identity = record.get("id", number)
    if not is_id(identity):
        return BadQuestion(number, f"line {number}: id must be a text or a whole number, got {identity!r}")
    try:
        return Question(identity, _query(record), _history(record), _text(record, "system"))
    except ValueError as error:
        return BadQuestion(identity, f"line {number}: {error}")


def _query(record: dict[str, Any]) -> Query:
    unknown = sorted(record.keys() - set(KEYS))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; expected some of {', '.join(KEYS)}")
    for keys in (TEXT_KEYS, IMAGE_KEYS):
        if record.keys() >= set(keys):
            raise ValueError(f"got both {keys[0]} and {keys[1]}; give only one of them")
    parts = [key for key in (*IMAGE_KEYS, *TEXT_KEYS) if key in record]
    if ("query" in record) == bool(parts):
        raise ValueError("expected either query, or text with or without images")
    if "query" in record:
        query = record["query"]
        if not isinstance(query, str | list):
            raise ValueError(f"query must be a text or a list of elements, got {query!r}")
        return query
    images = record.get("images", record.get("image", []))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"images must be a list of paths or URLs, got {images!r}")
    said = next((_text(record, key) for key in TEXT_KEYS if key in record), None)
    return [*({"image": image} for image in images), *([] if said is None else [{"text": said}])]


def _history(record: dict[str, Any]) -> tuple[Sequence[Any], ...]:
    history = record.get("history") or []
    if not isinstance(history, list):
        raise ValueError(f"history must be a list of [query, answer], got {history!r}")
    return tuple(history)


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if not (value is None or isinstance(value, str)):
        raise ValueError(f"{key} must be a text, got {value!r}")
    return value


def batches_by_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Indices of questions, in batches of similar sizes.

    Questions are sorted by pictures, then by tokens, and cut every `batch_size`. This needs little padding and compiles
    few different shapes. The longest come first: a batch that does not fit into memory fails at once.

    Args:
        sizes: (pictures, tokens) of each question.
        batch_size: the most questions in a batch.
    """
    order = sorted(range(len(sizes)), key=lambda index: sizes[index], reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
