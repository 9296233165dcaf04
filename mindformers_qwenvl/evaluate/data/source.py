"""Files of benchmarks: JSON, JSON Lines, tables; and where their pictures are. Plain Python."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_qwenvl.files import open_regular, parse_json, read_text

__all__ = ["DataError", "Folder", "load", "text_list", "value"]


class DataError(ValueError):
    """A file of a benchmark that cannot be used; the message names the file, the place and what was expected."""


def load(path: Path) -> Any:
    """What a JSON file holds; for JSON Lines a list of the objects; for a .tsv a list of the rows, each a dict.

    Raises:
        DataError: it is none of these, or empty.
        OSError: it cannot be read.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if path.suffix.lower() == ".tsv":
        return _table(path)
    try:
        text = read_text(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    if not text.strip():
        raise DataError(f"{path}: empty")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return list(_lines(path, text))
    try:
        return parse_json(text, path)
    except ValueError as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return list(_lines(path, text))
        raise DataError(f"{error}; it is not JSON Lines either") from error


def _lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, f"{path}: line {number}")
        except ValueError as error:
            raise DataError(str(error)) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number}: expected a JSON object, got {line.strip()[:80]}")
        yield row


def _table(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold a whole picture
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a table with tabs between columns: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows below the line of column names")
    return rows


def value(row: Mapping[str, Any], names: str | Sequence[str], where: str, kinds: Any = str) -> Any:
    """The value of the first of `names` that the row has.

    Raises:
        DataError: it has none of them, or the value is not one of `kinds`.
    """
    names = (names,) if isinstance(names, str) else names
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        raise DataError(f"{where}: no {' or '.join(names)}; there are {', '.join(map(str, row)) or 'no keys'}")
    if not isinstance(row[found], kinds) or isinstance(row[found], bool):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise DataError(f"{where}: {found} must be {wanted}, got {row[found]!r}"[:400])
    return row[found]


def text_list(found: Any, where: str) -> tuple[str, ...]:
    """Answers, in any of their forms: a text, a number, a list of texts, a list of {"answer": text}; None: ()."""
    if found is None:
        return ()
    items = found if isinstance(found, list) else [found]
    texts = [item.get("answer") if isinstance(item, dict) else item for item in items]
    if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for text in texts):
        raise DataError(f"{where}: answers must be a text or a list of texts, got {found!r}"[:400])
    return tuple(map(str, texts))


class Folder:
    """The folder of the pictures; none of them may be outside it.

    Args:
        path: of the folder.
        patterns: paths where a bare name is looked for too; `{}` stands for the name.
    """

    def __init__(self, path: Path, patterns: Iterable[str] = ()):
        if not path.is_dir():
            raise FileNotFoundError(f"--image-dir {path}: no such folder")
        self.path = path
        self.patterns = tuple(patterns)

    def find(self, name: str) -> str:
        """Where a picture is, relative to the folder; `name` itself if there is no such file.

        Datasets carry the folders of whoever made them, so leading folders are left out one after the other until the
        rest is a file: `data/coco/val2014/1.jpg`, `coco/val2014/1.jpg`, `val2014/1.jpg`, `1.jpg`.
        """
        if name.startswith(("data:", "http://", "https://")):
            return name
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        for candidate in (*tails, *(pattern.format(parts[-1]) for pattern in self.patterns if parts)):
            if self.has(candidate):
                return candidate
        return name

    def has(self, name: str) -> bool:
        try:
            return os.path.isfile(os.path.join(self.path, name))  # noqa: PTH113, PTH118 - a hundred thousand times
        except ValueError:  # a NUL
            return False
