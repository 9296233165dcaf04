"""Questions from a JSON Lines file. Plain Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.chat.prompt import Query

__all__ = ["BadRow", "Row", "read_rows", "similar"]

TEXT_KEYS = ("text", "question")
IMAGE_KEYS = ("image", "images")
KEYS = ("id", *IMAGE_KEYS, *TEXT_KEYS, "query", "history", "system")


@dataclass(frozen=True)
class Row:
    """A question. id: of the line, or its number; history: earlier exchanges; system: None is the default message."""

    id: str | int
    query: Query
    history: tuple[Sequence[Any], ...] = ()
    system: str | None = None


@dataclass(frozen=True)
class BadRow:
    """A line that is no question, and why."""

    id: str | int
    error: str


def read_rows(path: str | os.PathLike[str]) -> list[Row | BadRow]:
    """The questions of a file, one JSON object a line; empty lines are left out.

    `{"id": "a", "images": ["1.png", "2.png"], "text": "Compare them."}`: `image` may be used for one, `question` for
    `text`. Or `{"id": "b", "query": [{"image": "1.png"}, {"text": "..."}]}`; `query` may be a text with <img> tags.
    Both may have `history`, a list of [query, answer], and `system`. Without an `id` it is the line's number.

    Raises:
        ValueError: two lines have one id, so that their answers could not be told apart; or the file is no UTF-8.
        OSError: the file cannot be read.
    """
    rows: list[Row | BadRow] = []
    lines: dict[str, int] = {}
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _row(line, number)
        first = lines.setdefault(str(row.id), number)
        if first != number:
            raise ValueError(f"{path}: lines {first} and {number} have the same id {row.id!r}; ids must differ")
        rows.append(row)
    return rows


def _row(line: str, number: int) -> Row | BadRow:
    try:
        record = json.loads(line)
    except ValueError as error:
        return BadRow(number, f"line {number} is no JSON: {error}")
    if not isinstance(record, dict):
        return BadRow(number, f"line {number}: expected a JSON object, got {line.strip()[:80]}")
    identity = record.get("id", number)
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        return BadRow(number, f"line {number}: id is a text or a whole number, got {identity!r}")
    try:
        return Row(identity, _query(record), _history(record), _text(record, "system"))
    except ValueError as error:
        return BadRow(identity, f"line {number}: {error}")


def _query(record: dict[str, Any]) -> Query:
    unknown = sorted(record.keys() - set(KEYS))
    if unknown:
        raise ValueError(f"no key {', '.join(unknown)} is known; there are {', '.join(KEYS)}")
    for keys in (TEXT_KEYS, IMAGE_KEYS):
        if record.keys() >= set(keys):
            raise ValueError(f"both {keys[0]} and {keys[1]}; give one")
    parts = [key for key in (*IMAGE_KEYS, *TEXT_KEYS) if key in record]
    if ("query" in record) == bool(parts):
        raise ValueError("expected either query, or text and perhaps images")
    if "query" in record:
        query = record["query"]
        if not isinstance(query, str | list):
            raise ValueError(f"query is a text, or a list of elements, got {query!r}")
        return query
    images = record.get("images", record.get("image", []))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"images is a list of paths or addresses, got {images!r}")
    said = next((_text(record, key) for key in TEXT_KEYS if key in record), None)
    return [*({"image": image} for image in images), *([] if said is None else [{"text": said}])]


def _history(record: dict[str, Any]) -> tuple[Sequence[Any], ...]:
    history = record.get("history") or []
    if not isinstance(history, list):
        raise ValueError(f"history is a list of [query, answer], got {history!r}")
    return tuple(history)


def _text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if not (value is None or isinstance(value, str)):
        raise ValueError(f"{key} is a text, got {value!r}")
    return value


def similar(sizes: Sequence[tuple[int, int]], batch_size: int) -> Iterable[list[int]]:
    """Indices of rows in batches of rows alike.

    Rows are put in the order of pictures, then of tokens, and cut every `batch_size` rows, so that little is spent on
    fillers and few different shapes are compiled. The longest come first: what does not fit into memory shows at once.

    Args:
        sizes: (pictures, tokens) of each row.
        batch_size: rows of a batch, at most.
    """
    order = sorted(range(len(sizes)), key=lambda index: sizes[index], reverse=True)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
