"""Answers in a JSON Lines file that survives being killed: each line is written whole, and read again to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mindformers_qwenvl.files import lock_file, locked, replacing

__all__ = ["Journal", "journal_lines"]

BEGINNING = b'{"id": '  # of every line


class Journal:
    """The answers so far, and a place for more. Use it with `with`; until the end, no other process can open it.

    Opening it drops lines that are not answers: a torn last line, and questions that failed and will be tried again.

    Args:
        path: the file; it need not exist.

    Raises:
        ValueError: another process writes into the file; or it contains something other than answers, or is not a
            regular file; it is left as it is.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self.path} is not a regular file; give one, because answers are read again to resume")
        busy = f"{self.path}: another process is writing answers into it; wait for it, or give another file"
        with ExitStack() as opened:
            opened.enter_context(locked(lock_file(self.path), busy))
            kept = self._answers() if self.path.exists() else {}
            self.answered = frozenset(kept)
            if self.path.exists():
                with replacing(self.path) as file:
                    file.writelines(kept.values())
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            opened.callback(os.close, self._file)
            self._opened = opened.pop_all()

    def _answers(self) -> dict[str, bytes]:
        """Lines with an answer, by id."""
        kept: dict[str, bytes] = {}
        for number, (line, record) in enumerate(journal_lines(self.path), 1):
            torn = not line.endswith(b"\n") and (line.startswith(BEGINNING) or BEGINNING.startswith(line))
            if record is None and not torn:
                self._refuse(number, line.removesuffix(b"\n"))
            if record is not None and "answer" in record:
                kept[str(record["id"])] = line
        return kept

    def _refuse(self, number: int, line: bytes) -> None:
        raise ValueError(
            f"{self.path}: line {number} is not an answer of this command, so the file is left as it is: "
            f"{line[:80].decode(errors='replace')!r}; give another file"
        )

    def write(self, record: dict[str, Any]) -> None:
        """Append a record with `id` and `answer` or `error`."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        written = os.write(self._file, line)
        while written < len(line):  # a nearly full disk takes only a part at a time
            written += os.write(self._file, line[written:])

    def release(self) -> None:
        """Remove the lock before a process ends abruptly. The answers need no care: each line is written whole."""
        lock_file(self.path).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and let others open it."""
        self._opened.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def journal_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """The lines of a journal, each with its record; None for what is not a record, such as a torn last line.

    A line without its line break is torn, even if it is complete JSON. Another process may be writing the file.
    """
    with path.open("rb") as file:
        for line in file:
            yield line, _record(line) if line.endswith(b"\n") else None


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(record, dict) and "id" in record and ("answer" in record or "error" in record)
    return record if known else None
