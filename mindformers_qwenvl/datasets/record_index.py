"""Where the records of a conversation file are: their byte positions, found without decoding the JSON.

numpy only. The file is scanned block by block. The index takes 8 bytes per record (16 for JSON Lines with empty lines);
it can be kept in a file of its own and mapped into memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindformers_qwenvl.files import open_regular, replacing

__all__ = ["BrokenFileError", "RecordIndex", "index_file", "open_index"]

BLOCK = 1 << 20
VERSION = 1
HEADER = 4096  # bytes in front of the numbers in an index file
QUOTE, BACKSLASH, NEWLINE, COMMA = b'"\\\n,'
# For each byte: whether it matters for where a record ends; how it changes the depth of brackets, and of braces.
STRUCTURE = bytes(byte in b'"[]{},' for byte in range(256))
STEP = np.array([(byte in b"[{") - (byte in b"]}") for byte in range(256)], np.int8)
BRACE_STEP = np.array([(byte == ord("{")) - (byte == ord("}")) for byte in range(256)], np.int8)


class BrokenFileError(ValueError):
    """The brackets of a JSON list do not match, or the file is not UTF-8; the message gives the byte."""


@dataclass(frozen=True)
class RecordIndex:
    """`bounds` int64 [n + 1]: record i is in the bytes bounds[i] to bounds[i + 1] - gap.

    is_list: whether it is a JSON list (then gap is 1, for the comma or bracket after the record) or JSON Lines (0).
    lines: int64 [n], the line of each record; None for a list, and if record i is on line i + 1.
    """

    bounds: np.ndarray
    is_list: bool
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def place(self, index: int) -> tuple[int, int]:
        """The start and the length of record `index`, in bytes."""
        start, stop = self.bounds[index : index + 2].tolist()
        return start, stop - start - self.is_list

    def line(self, index: int) -> int | None:
        """The line of record `index`, from 1; None in a list."""
        if self.is_list:
            return None
        return index + 1 if self.lines is None else int(self.lines[index])


def index_file(path: str | os.PathLike[str], is_list: bool) -> RecordIndex:
    """Scan the file.

    Raises:
        OSError: it cannot be read.
        BrokenFileError: see there. Inside a record, only brackets are checked.
    """
    with open_regular(path) as file:
        return _index_list(file) if is_list else _index_lines(file)


# ---------------------------------------------------------------- JSON Lines


def _index_lines(file: BinaryIO) -> RecordIndex:
    parts, empty = [], []
    begins = True  # the block begins a line
    for offset, block in _blocks(file):
        array = np.frombuffer(block, np.uint8)
        starts = np.flatnonzero(array == NEWLINE) + 1
        if begins:
            starts = np.concatenate(([0], starts))
        begins = bool(block.endswith(b"\n"))
        if begins:
            starts = starts[:-1]
        blank = np.isin(array[starts], np.frombuffer(b" \t\r\n", np.uint8))
        empty.append(starts[blank] + offset)
        parts.append(starts + offset)
    starts = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    end = file.tell()
    suspects = np.concatenate(empty) if empty else np.zeros(0, np.int64)
    if offset_of_text := _bom(file):
        starts[0] = offset_of_text
    blank_lines = [start for start in suspects.tolist() if _is_blank(file, start)]
    if not blank_lines:
        return RecordIndex(np.append(starts, end), False)
    kept = ~np.isin(starts, blank_lines)
    return RecordIndex(np.append(starts[kept], end), False, np.flatnonzero(kept) + 1)


def _is_blank(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    while part := file.readline(BLOCK):
        if not part.isspace():
            return False
        if part.endswith(b"\n"):
            break
    return True


def _bom(file: BinaryIO) -> int:
    file.seek(0)
    return len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0


# ---------------------------------------------------------------- a list


def _index_list(file: BinaryIO) -> RecordIndex:
    scan = _ListScan()
    utf8 = codecs.getincrementaldecoder("utf-8")()
    for offset, block in _blocks(file):
        if not block.isascii() or utf8.getstate()[0]:
            try:
                utf8.decode(block)
            except UnicodeDecodeError as error:
                raise BrokenFileError(f"not UTF-8: {error.reason} near byte {offset + error.start}") from error
        scan.add(offset, block)
    if utf8.getstate()[0]:
        raise BrokenFileError("not UTF-8: the file ends within a character")
    bounds = scan.finish()
    start, stop = bounds[-2:].tolist() if len(bounds) > 1 else (0, 0)
    file.seek(start)
    if not file.read(stop - start - 1).strip():  # nothing before the closing bracket
        if len(bounds) > 2:
            raise BrokenFileError(f"a comma before the end of the list, at byte {stop - 1}")
        bounds = bounds[:1]
    return RecordIndex(bounds, True)


class _ListScan:
    """The positions of the commas between the values of a list, found block by block.

    Carried from one block to the next: whether its last byte was an escaping backslash, whether it ended inside a
    string, and the depth of brackets and of braces.
    """

    def __init__(self) -> None:
        self.escaped = self.quoted = self.closed = False
        self.depth = self.braces = 0
        self.bounds: list[np.ndarray] = []

    def add(self, offset: int, block: bytes) -> None:
        if self.closed and block.strip():
            raise BrokenFileError(f"there is more text after the end of the list, at byte {offset}")
        flags = np.frombuffer(bytearray(block.translate(STRUCTURE)), np.uint8)
        array = np.frombuffer(block, np.uint8)
        self._skip_escaped(array, flags)
        places = np.flatnonzero(flags.view(bool))  # numpy has a faster way for bool
        bytes_ = array[places]
        quotes = bytes_ == QUOTE
        inside = (np.cumsum(quotes, dtype=np.int32) + self.quoted) & 1
        self.quoted = bool(inside[-1]) if len(inside) else self.quoted
        outside = ~quotes & (inside == 0)
        places, bytes_ = places[outside], bytes_[outside]
        depth = np.cumsum(STEP[bytes_], dtype=np.int32) + self.depth
        braces = np.cumsum(BRACE_STEP[bytes_], dtype=np.int32)
        braces += self.braces
        if len(depth):
            self._check_end(offset, block, places, depth)
            ends = ((bytes_ == COMMA) & (depth == 1)) | (depth == 0)
            if braces[ends].any():
                raise BrokenFileError(
                    f"brackets do not match before byte {offset + places[ends][braces[ends] != 0][0]}"
                )
            if not self.bounds:
                self.bounds.append(places[:1] + offset + 1)
            self.bounds.append(places[ends] + offset + 1)
            self.depth, self.braces = int(depth[-1]), int(braces[-1])

    def _skip_escaped(self, array: np.ndarray, flags: np.ndarray) -> None:
        """Clear the flags of bytes behind an escaping backslash: each odd one in a row of backslashes escapes."""
        backslashes = np.flatnonzero(array == BACKSLASH)
        carried = self.escaped
        self.escaped = False
        if carried:
            flags[0] = 0
        if not len(backslashes):
            return
        number = np.arange(len(backslashes))
        first = np.concatenate(([True], np.diff(backslashes) != 1))
        nth = number - np.maximum.accumulate(np.where(first, number, 0))
        if carried and backslashes[0] == 0:  # the first one is escaped itself
            row = np.flatnonzero(first)
            nth[: row[1] if len(row) > 1 else None] -= 1
        escaping = backslashes[nth % 2 == 0]
        if len(escaping) and escaping[-1] == len(array) - 1:
            self.escaped = True
            escaping = escaping[:-1]
        flags[escaping + 1] = 0

    def _check_end(self, offset: int, block: bytes, places: np.ndarray, depth: np.ndarray) -> None:
        over = np.flatnonzero(depth <= 0)
        if len(over):
            end = int(places[over[0]])
            if len(over) > 1 or over[0] != len(depth) - 1 or block[end : end + 1] != b"]" or block[end + 1 :].strip():
                raise BrokenFileError(f"there is more text after the end of the list, at byte {offset + end}")
            self.closed = True

    def finish(self) -> np.ndarray:
        if not self.closed or self.quoted:
            raise BrokenFileError("the list is not closed")
        return np.concatenate(self.bounds).astype(np.int64)


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    offset = 0
    file.seek(0)
    while block := file.read(BLOCK):
        yield offset, block
        offset += len(block)


# ---------------------------------------------------------------- kept in a file


def open_index(path: str | os.PathLike[str], is_list: bool, folder: str | os.PathLike[str] | None) -> RecordIndex:
    """The index of `path`: the one kept in `folder` if it is up to date, else a new one, which is then kept there.

    An index is up to date if the file still has the same size, modification time, beginning and end. With `folder` None
    nothing is kept. If the index cannot be written, a warning says so.
    """
    if folder is None:
        return index_file(path, is_list)
    path = Path(path).resolve()
    kept = Path(folder) / f"{path.name}.{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}.index"
    mark = _fingerprint(path)
    index = _load(kept, mark, is_list)
    if index is None:
        index = index_file(path, is_list)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            _save(kept, index, mark)
        except OSError as error:
            warnings.warn(f"the index of {path} cannot be saved: {error}", stacklevel=2)
    return index


def _fingerprint(path: Path) -> dict[str, object]:
    status = path.stat()
    with open_regular(path) as file:
        ends = hashlib.sha256(file.read(1 << 16))
        file.seek(max(0, status.st_size - (1 << 16)))
        ends.update(file.read())
    return {"version": VERSION, "size": status.st_size, "changed": status.st_mtime_ns, "ends": ends.hexdigest()}


def _save(kept: Path, index: RecordIndex, mark: dict[str, object]) -> None:
    header = {**mark, "records": len(index), "is_list": index.is_list, "has_lines": index.lines is not None}
    with replacing(kept) as file:
        file.write(json.dumps(header).encode().ljust(HEADER - 1) + b"\n")
        for numbers in (index.bounds, index.lines):
            if numbers is not None:
                file.write(np.ascontiguousarray(numbers, "<i8").data)


def _load(kept: Path, mark: dict[str, object], is_list: bool) -> RecordIndex | None:
    try:
        with kept.open("rb") as file:
            header = json.loads(file.read(HEADER))
        count, has_lines = header.pop("records"), header.pop("has_lines")
        if header != {**mark, "is_list": is_list}:
            return None
        numbers = np.memmap(kept, "<i8", "r", HEADER)
    except (OSError, ValueError, KeyError, AttributeError):  # there is none, or it is not an index
        return None
    if len(numbers) != count + 1 + has_lines * count:
        return None
    return RecordIndex(numbers[: count + 1], is_list, numbers[count + 1 :] if has_lines else None)
