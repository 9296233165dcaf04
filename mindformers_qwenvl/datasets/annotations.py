"""Conversation files in the Qwen-VL format: a JSON list, or one JSON object per line (JSONL). Python and numpy.

A record: `{"id": "0", "conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\nWhat is it?"}, ...]}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.datasets.json_stream import MAX_RECORD, JsonStream, StreamError
from mindformers_qwenvl.datasets.record_index import BrokenFileError, open_index
from mindformers_qwenvl.files import open_regular

# The role of the turn that carries a SampleNote before a conversation. MindFormers' dataset passes a transform nothing
# but the conversation, so what error messages need travels inside it.
NOTE_ROLE = "__sample__"


class AnnotationError(ValueError):
    """An annotation file, or a record in one, cannot be used. The message names file, sample and reason."""


@dataclass(frozen=True)
class SampleNote:
    """Where a conversation comes from.

    where: file and sample, for messages.
    root: the folder of its pictures, if the loader has one.
    confined: whether pictures must be inside `root`; if not, it is only where relative paths start.
    loader, ticket: where the prepared sample is, see ahead.py.
    """

    where: str
    root: str | None = None
    confined: bool = True
    loader: int | None = None
    ticket: int | None = None


class AnnotationFile:
    """The records of one file, by number. Memory holds their positions, 8 bytes each; records are read on demand.

    Threads and processes may share one object.

    Args:
        path: the file; its first character that is not white space tells a list (`[`) from JSONL (`{`).
        data_field, from_keyword, value_keyword: keys of the conversation, of its roles and of its texts.
        index_dir: folder to keep the index in, see `record_index.open_index`; None: it is made each time.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file has no records or is not JSON as a whole; a malformed record raises when it is read.
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
        try:
            first = self._first_character()
        except ValueError as error:
            raise AnnotationError(f"annotation file {error}") from None
        if first not in (b"[", b"{"):
            found = f"starts with {first!r}; expected a JSON list or one JSON object per line" if first else "empty"
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
        """Record `index` as decoded from JSON, unchecked.

        Raises:
            IndexError: there is no such record.
            AnnotationError: it is not JSON.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"annotation file {self.path}: sample {index} of {len(self)}")
        start, length = self.index.place(index)
        if length > MAX_RECORD:
            raise AnnotationError(f"{self._place(index)}: {length:,} bytes, more than the {MAX_RECORD:,} allowed")
        data = os.pread(self._file.fileno(), length, start)  # threads and processes would share the position of `read`
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            reason = error
            if isinstance(error, json.JSONDecodeError):
                line = f"line {error.lineno} of it, " if error.lineno > 1 else ""
                reason = f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
            raise AnnotationError(f"{self._place(index)}: not valid JSON: {reason}") from error

    def sample(self, index: int) -> tuple[str, list[tuple[str, str]]]:
        """(what messages call record `index`, its turns as (role, text)). The first part is file, number, line and id.

        Raises:
            AnnotationError: the record is not JSON or is malformed.
        """
        return self.turns(index, self.record(index))

    def turns(self, index: int, record: Any) -> tuple[str, list[tuple[str, str]]]:
        """The same as `sample`, for a record that has already been read."""
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
                    f"{where}, turn {number}: expected an object with the strings {self.from_keyword!r} and "
                    f"{self.value_keyword!r}, found {_shortened(turn)}"
                )
            pairs.append(pair)
        return where, pairs

    def _place(self, index: int) -> str:
        place, line = f"annotation file {self.path}, sample {index}", self.index.line(index)
        return place if line is None else f"{place} (line {line})"

    def _first_character(self) -> bytes:
        with open_regular(self.path) as file:
            while block := file.read(4096):
                if rest := block.removeprefix(b"\xef\xbb\xbf").strip():
                    return rest[:1]
        return b""

    def _why_broken(self, found: BrokenFileError) -> str:
        """The file and what is wrong with it, with line and column if the JSON decoder finds it too."""
        try:
            with JsonStream(self.path) as stream:
                for _ in stream.items():
                    pass
        except StreamError as error:
            return str(error)
        return f"{self.path}: not valid JSON: {found}"


def encode_sample(turns: Iterable[tuple[str, str]], note: SampleNote) -> str:
    """The JSON text that MindFormers' `BaseXModalToTextTransform.process_conversation` reads; the note comes first."""
    header = {"from": NOTE_ROLE, "value": json.dumps(vars(note))}
    return json.dumps([header, *({"from": role, "value": text} for role, text in turns)])


def split_note(turns: Sequence[Sequence[str]]) -> tuple[SampleNote | None, list[tuple[str, str]]]:
    """The reverse of `encode_sample`, for decoded turns: (note or None, turns). Turns may be numpy strings."""
    pairs = [(str(role), str(text)) for role, text in turns]
    if pairs and pairs[0][0] == NOTE_ROLE:
        return SampleNote(**json.loads(pairs[0][1])), pairs[1:]
    return None, pairs


def _shortened(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
