"""JSON files of any size, read value by value: memory holds one value and one block. Plain Python."""

from __future__ import annotations

import codecs
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mindformers_qwenvl.files import open_regular

__all__ = ["MAX_RECORD", "BadLine", "JsonStream", "StreamError"]

BLOCK = 1 << 20  # bytes read at a time
# Bytes or characters of one record or value: a bracket that is never closed must not fill the memory. JSON of this size
# that is made to need much memory, such as a list of empty dicts, takes 0.8 GB.
MAX_RECORD = 32 << 20
# An error this near the end of the text may only mean that more text is needed ("-Infinity" is the longest word that
# can be split). Strings are the exception: they can be split anywhere.
MARGIN = 16
SPACE = " \t\r\n"


class StreamError(ValueError):
    """Text that is not JSON; the message names file, line and column."""


class BadLine:
    """Stands for the value of a line that is not JSON. `reason` gives the line, the column and what is wrong."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class JsonStream:
    """The values of one file, in order, each read once. Use it in a `with` statement.

    There are three kinds of files: a list (`items`), JSON Lines (`lines`) and one object of lists (`sections`).

    Args:
        path: the file, UTF-8 with or without a byte-order mark.
        block: bytes to read at a time.
        progress: called with the number of bytes read so far, after each block.

    Raises:
        OSError: the file cannot be read.
        StreamError: raised by the methods when they reach text that is not JSON or not UTF-8.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, block: int = BLOCK, progress: Callable[[int], None] | None = None
    ) -> None:
        self.path = Path(path)
        self._block = block
        self._progress = progress
        self._decoder = json.JSONDecoder()
        self._file: BinaryIO = _open(self.path)
        self._rewind()

    def __enter__(self) -> JsonStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def kind(self) -> str:
        """ "list", "lines", "object", "empty" or "other".

        "lines": the first line is a whole object, even if it is the only line, or cannot continue on the next line; or
        the file's name ends with .jsonl. "object": an object over several lines, or one longer than 16 blocks.
        """
        first = self.first_character()
        if first == "[":
            return "list"
        if first and self.path.suffix.lower() == ".jsonl":
            return "lines"
        if first == "{":
            while "\n" not in self._text[self._at :] and not self._ended and len(self._text) < 16 * self._block:
                self._read()
            line, _, rest = self._text[self._at :].partition("\n")
            if not rest.strip():  # a broken single line is an "object": its error gives the column
                return "lines" if _ends_at(line) is None else "object"
            at = _ends_at(line)
            return "object" if at is not None and at >= len(line.rstrip()) else "lines"
        return "empty" if not first else "other"

    def first_character(self) -> str:
        """The first character of the file that is not white space, or ""."""
        self._rewind()
        return self._peek()

    def items(self) -> Iterator[Any]:
        """The values of a list."""
        self._rewind()
        self._expect("[")
        yield from self._items()
        self._expect_end()

    def lines(self) -> Iterator[Any]:
        """The values of JSON Lines, with a `BadLine` for each line that is not JSON. Empty lines are skipped."""
        self._rewind()
        for number in itertools.count(1):
            line, length = self._next_line()
            if not length:
                break
            self._count += length
            if self._progress is not None and self._count - self._told >= self._block:
                self._tell()
            if length > len(line):
                yield BadLine(f"line {number}: {length:,} bytes, more than the {MAX_RECORD:,} allowed")
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.isspace() or not line:
                continue
            try:
                yield json.loads(line)
            except UnicodeDecodeError as error:
                yield BadLine(f"line {number}: not UTF-8: {error.reason}")
            except json.JSONDecodeError as error:
                yield BadLine(f"line {number} column {error.colno}: not valid JSON: {error.msg.removesuffix(' at')}")
            except RecursionError:
                yield BadLine(f"line {number}: not valid JSON: nested too deeply")
            except ValueError as error:  # a number with more digits than Python reads
                yield BadLine(f"line {number}: not valid JSON: {error}")
        self._tell()

    def sections(self, wanted: Callable[[str], bool] = lambda key: True) -> Iterator[tuple[str, Any]]:
        """(key, value) of an object; if a value is a list, (key, item) for each of its items.

        Values of keys that are not `wanted` are read too, but left out.
        """
        self._rewind()
        self._expect("{")
        if self._peek() == "}":
            self._at += 1
            self._expect_end()
            return
        while True:
            if self._peek() != '"':
                self._fail("expected a key in double quotes", self._at)
            key = self._value()
            self._expect(":")
            if self._peek() == "[":
                self._at += 1
                for item in self._items():
                    if wanted(key):
                        yield key, item
            else:
                value = self._value()
                if wanted(key):
                    yield key, value
            if self._peek() == "}":
                self._at += 1
                break
            self._expect(",")
        self._expect_end()

    def _next_line(self) -> tuple[bytes, int]:
        """The next line and its length; of a line that is too long, only the beginning."""
        line = self._file.readline(MAX_RECORD)
        length = len(line)
        while length >= MAX_RECORD and not line.endswith(b"\n"):
            more = self._file.readline(MAX_RECORD)
            if not more:
                break
            length, line = length + len(more), line[:1] if not more.endswith(b"\n") else b"\n"
        return line, length

    # ---- the text at hand: self._text from self._at on

    def _rewind(self) -> None:
        self._file.seek(0)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of self._text[0]
        self._count = self._told = 0  # bytes

    def _read(self) -> None:
        """Read one more block. For a long value it is larger, so that decoding is not tried too often."""
        data = self._file.read(max(self._block, len(self._text) - self._at))
        self._ended = not data
        self._count += len(data)
        try:
            more = self._utf8.decode(data, self._ended)
        except UnicodeDecodeError as error:
            place = self._count - len(data) + error.start
            raise StreamError(f"{self.path}: not UTF-8: {error.reason} near byte {place}") from error
        self._line, self._column = self._place(self._at)
        self._text = self._text[self._at :] + more
        self._at = 0
        self._tell()

    def _tell(self) -> None:
        self._told = self._count
        if self._progress is not None:
            self._progress(self._count)

    def _peek(self) -> str:
        """The next character that is not white space, or "" at the end of the file. `_at` then points to it."""
        while True:
            text, at = self._text, self._at
            while at < len(text):
                if text[at] not in SPACE:
                    self._at = at
                    return text[at]
                at += 1
            self._at = at
            if self._ended:
                return ""
            self._read()

    def _items(self) -> Iterator[Any]:
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            following = self._peek()
            self._at += 1
            if following == "]":
                return
            if following != ",":
                self._fail("expected ',' or ']'" if following else "the list is not closed", self._at - 1)

    def _value(self) -> Any:
        if not self._peek():
            self._fail("the file ends where a value is expected", self._at)
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                torn = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - MARGIN
                if self._ended or not torn:
                    self._fail(error.msg, error.pos, error)
                if len(self._text) - self._at > MAX_RECORD:
                    self._fail(f"a value longer than {MAX_RECORD} characters", self._at, error)
            except RecursionError as error:
                self._fail("nested too deeply", self._at, error)
            except ValueError as error:  # a number with more digits than Python reads
                self._fail(str(error), self._at, error)
            else:
                # A number could continue in the next block.
                if self._ended or end < len(self._text) - MARGIN or self._text[end - 1] in '"}]':
                    self._at = end
                    return value
            self._read()

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            self._fail(f"expected {character!r}", self._at)
        self._at += 1

    def _expect_end(self) -> None:
        if self._peek():
            self._fail("there is more text after the end", self._at)

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of self._text[at]."""
        breaks = self._text.count("\n", 0, at)
        if not breaks:
            return self._line, self._column + at
        return self._line + breaks, at - self._text.rindex("\n", 0, at)

    def _fail(self, reason: str, at: int, error: Exception | None = None) -> None:
        line, column = self._place(min(at, len(self._text)))
        raise StreamError(
            f"{self.path}: not valid JSON: {reason.removesuffix(' at')} at line {line} column {column}"
        ) from error


def _open(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except ValueError as error:
        raise StreamError(str(error)) from None


def _ends_at(line: str) -> int | None:
    """Where decoding a line fails: at its end if the value continues on the next line. None: it does not fail."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return -1 if error.msg.startswith("Unterminated string") else error.pos  # no string has line breaks
    except (ValueError, RecursionError):  # also a fault within this line
        return -1
    return None
