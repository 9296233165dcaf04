"""Conversation files in the Qwen-VL format: a JSON list, or one JSON object a line (JSONL). Plain Python.

A record: `{"id": "0", "conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\nWhat is it?"}, ...]}`.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The role of the turn that carries a SampleNote in front of a conversation. MindFormers' dataset hands a transform the
# conversation and nothing else, so what an error message needs to know travels inside it.
NOTE_ROLE = "__sample__"


class AnnotationError(ValueError):
    """An annotation file or a record of one that cannot be used; the message names file, sample and reason."""


@dataclass(frozen=True)
class SampleNote:
    """Where a conversation came from: `where` for messages, `root` the folder of its pictures (None: not said), and
    whether they must be inside of it (`confined`) or its relative paths only start there."""

    where: str
    root: str | None = None
    confined: bool = True


class AnnotationFile:
    """The records of one file, by number. A JSON list is held in memory; of JSONL only the line starts are.

    Args:
        path: the file; the first character that is not a space decides between a list (`[`) and JSONL (`{`).
        data_field, from_keyword, value_keyword: keys of the conversation, of its roles and of its texts.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: not JSON, or no records.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data_field: str = "conversations",
        from_keyword: str = "from",
        value_keyword: str = "value",
    ) -> None:
        self.path = Path(path)
        self.data_field = data_field
        self.from_keyword = from_keyword
        self.value_keyword = value_keyword
        self._records: list[Any] | None = None
        self._lines = array("q")  # line number and byte offset of every record, one after the other
        if not self.path.is_file():
            raise FileNotFoundError(
                f"annotation file {self.path}: {'a folder' if self.path.is_dir() else 'no such file'}"
            )
        match self._first_character():
            case b"[":
                self._records = self._read_list()
            case b"{":
                self._index_lines()
            case b"":
                raise AnnotationError(f"annotation file {self.path}: empty")
            case first:
                raise AnnotationError(
                    f"annotation file {self.path}: starts with {first!r}, not a JSON list or one JSON object a line"
                )
        if not len(self):
            raise AnnotationError(f"annotation file {self.path}: no samples")

    def __len__(self) -> int:
        return len(self._lines) // 2 if self._records is None else len(self._records)

    def record(self, index: int) -> Any:
        """Record `index` as JSON has it, unchecked."""
        if not 0 <= index < len(self):
            raise IndexError(f"annotation file {self.path}: sample {index} of {len(self)}")
        if self._records is not None:
            return self._records[index]
        with self.path.open("rb") as file:
            file.seek(self._lines[2 * index + 1])
            line = file.readline()
        try:
            return json.loads(line)
        except ValueError as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise AnnotationError(f"{self._place(index)}: not valid JSON: {reason}") from error

    def sample(self, index: int) -> tuple[str, list[tuple[str, str]]]:
        """Record `index` as (how messages call it: file, number, line, id; (role, text) of every turn).

        Raises:
            AnnotationError: the record is not JSON or has another form.
        """
        record = self.record(index)
        is_object = isinstance(record, dict)
        where = self._place(index)
        if is_object and record.get("id") is not None:
            where += f", id {record['id']!r}"
        turns = record.get(self.data_field) if is_object else None
        if not isinstance(turns, list):
            found = f"an object with the keys {sorted(record)}" if is_object else type(record).__name__
            raise AnnotationError(f"{where}: expected an object with a list {self.data_field!r}, found {found}")
        pairs = []
        for number, turn in enumerate(turns):
            pair = (turn.get(self.from_keyword), turn.get(self.value_keyword)) if isinstance(turn, dict) else (None,)
            if not all(isinstance(text, str) for text in pair):
                raise AnnotationError(
                    f"{where}, turn {number}: expected an object with the texts {self.from_keyword!r} and "
                    f"{self.value_keyword!r}, found {_short(turn)}"
                )
            pairs.append(pair)
        return where, pairs

    def _place(self, index: int) -> str:
        place = f"annotation file {self.path}, sample {index}"
        return place if self._records is not None else f"{place} (line {self._lines[2 * index]})"

    def _first_character(self) -> bytes:
        with self.path.open("rb") as file:
            while block := file.read(4096):
                if rest := block.removeprefix(b"\xef\xbb\xbf").strip():
                    return rest[:1]
        return b""

    def _read_list(self) -> list[Any]:
        try:
            return json.loads(self.path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at line {error.lineno} column {error.colno}"
            raise AnnotationError(f"annotation file {self.path}: not valid JSON: {reason}") from error
        except UnicodeDecodeError as error:
            raise AnnotationError(f"annotation file {self.path}: not UTF-8: {error}") from error

    def _index_lines(self) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                start = offset + (3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0)
                offset += len(line)
                if line.strip():
                    self._lines.extend((number, start))


def encode_sample(turns: Iterable[tuple[str, str]], note: SampleNote) -> str:
    """The JSON text that MindFormers' `BaseXModalToTextTransform.process_conversation` reads, the note in front."""
    header = {"from": NOTE_ROLE, "value": json.dumps(asdict(note))}
    return json.dumps([header, *({"from": role, "value": text} for role, text in turns)])


def split_note(turns: Sequence[Sequence[str]]) -> tuple[SampleNote | None, list[tuple[str, str]]]:
    """Undo `encode_sample`'s header: (note or None, the turns). Turns are any pairs, numpy strings as well."""
    pairs = [(str(role), str(text)) for role, text in turns]
    if pairs and pairs[0][0] == NOTE_ROLE:
        return SampleNote(**json.loads(pairs[0][1])), pairs[1:]
    return None, pairs


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
