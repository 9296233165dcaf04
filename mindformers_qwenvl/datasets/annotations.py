"""Conversation files in the Qwen-VL format: a JSON list, or one JSON object a line (JSONL). Python and numpy.

A record: `{"id": "0", "conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\nWhat is it?"}, ...]}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.datasets.json_stream import JsonStream, StreamError
from mindformers_qwenvl.datasets.record_index import BrokenFileError, open_index

# The role of the turn that carries a SampleNote in front of a conversation. MindFormers' dataset hands a transform the
# conversation and nothing else, so what an error message needs to know travels inside it.
NOTE_ROLE = "__sample__"


class AnnotationError(ValueError):
    """An annotation file or a record of one that cannot be used; the message names file, sample and reason."""


@dataclass(frozen=True)
class SampleNote:
    """Where a conversation came from: `where` for messages, `root` the folder of its pictures (None: not said), and
    whether they must be inside of it (`confined`) or its relative paths only start there. `loader` and `ticket` say
    where it may lie prepared, see ahead.py."""

    where: str
    root: str | None = None
    confined: bool = True
    loader: int | None = None
    ticket: int | None = None


class AnnotationFile:
    """The records of one file, by number. Memory holds where they are, 8 bytes each; a record is read when asked for.

    Threads and processes may share one.

    Args:
        path: the file; the first character that is not a space decides between a list (`[`) and JSONL (`{`).
        data_field, from_keyword, value_keyword: keys of the conversation, of its roles and of its texts.
        index_dir: folder to keep the index in, see `record_index.open_index`; None: made anew each time.

    Raises:
        FileNotFoundError: no such file.
        AnnotationError: the file as a whole is not JSON (a record that is not raises when it is read), or has no
            records.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data_field: str = "conversations",
        from_keyword: str = "from",
        value_keyword: str = "value",
        index_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.data_field = data_field
        self.from_keyword = from_keyword
        self.value_keyword = value_keyword
        if not self.path.is_file():
            raise FileNotFoundError(
                f"annotation file {self.path}: {'a folder' if self.path.is_dir() else 'no such file'}"
            )
        first = self._first_character()
        if first not in (b"[", b"{"):
            found = f"starts with {first!r}, not a JSON list or one JSON object a line" if first else "empty"
            raise AnnotationError(f"annotation file {self.path}: {found}")
        try:
            self.index = open_index(self.path, first == b"[", index_dir)
        except BrokenFileError as error:
            raise AnnotationError(f"annotation file {self._why_broken(error)}") from error
        if not len(self):
            raise AnnotationError(f"annotation file {self.path}: no samples")
        self._file = self.path.open("rb", buffering=0)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = self.path.open("rb", buffering=0)

    def __len__(self) -> int:
        return len(self.index)

    def record(self, index: int) -> Any:
        """Record `index` as JSON has it, unchecked.

        Raises:
            AnnotationError: it is not JSON.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"annotation file {self.path}: sample {index} of {len(self)}")
        start, length = self.index.place(index)
        data = os.pread(self._file.fileno(), length, start)  # no position that threads and processes would share
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise AnnotationError(f"{self._place(index)}: not valid JSON: {reason}") from error

    def sample(self, index: int) -> tuple[str, list[tuple[str, str]]]:
        """Record `index` as (how messages call it: file, number, line, id; (role, text) of every turn).

        Raises:
            AnnotationError: the record is not JSON or has another form.
        """
        return self.turns(index, self.record(index))

    def turns(self, index: int, record: Any) -> tuple[str, list[tuple[str, str]]]:
        """`sample` of a record that was read already."""
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
        place, line = f"annotation file {self.path}, sample {index}", self.index.line(index)
        return place if line is None else f"{place} (line {line})"

    def _first_character(self) -> bytes:
        with self.path.open("rb") as file:
            while block := file.read(4096):
                if rest := block.removeprefix(b"\xef\xbb\xbf").strip():
                    return rest[:1]
        return b""

    def _why_broken(self, found: BrokenFileError) -> str:
        """The file and what is wrong with it, with line and column if the JSON decoder stumbles too."""
        try:
            with JsonStream(self.path) as stream:
                for _ in stream.items():
                    pass
        except StreamError as error:
            return str(error)
        return f"{self.path}: not valid JSON: {found}"


def encode_sample(turns: Iterable[tuple[str, str]], note: SampleNote) -> str:
    """The JSON text that MindFormers' `BaseXModalToTextTransform.process_conversation` reads, the note in front."""
    header = {"from": NOTE_ROLE, "value": json.dumps(vars(note))}
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
