"""Reading whole files of unknown content, and checking that inputs do not change meanwhile."""

from __future__ import annotations

import functools
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

__all__ = ["Inputs", "open_regular", "parse_json", "read_bytes", "read_json", "read_text"]

MAX_TEXT = 256 << 20  # bytes of a file that is read whole; larger datasets are read record by record
MAX_JSON = 16 << 20  # bytes of a config.json, an index of shards and the like
# First bytes of files that do not hold the text they should, and what such a file is.
_FOREIGN = {
    b"version https://git-lfs.": "a git-lfs pointer, not the file itself: run `git lfs pull` where it was cloned",
    b"\xff\xfe": "UTF-16, not UTF-8: save it again as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: save it again as UTF-8",
}


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """A regular file, open for reading. A pipe or a device is refused: reading it might never end, or never begin.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_dev not in _devices_of_the_system():
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(f"{path} is a folder, not a file")
    raise ValueError(f"{path} is not a regular file")


@functools.cache
def _devices_of_the_system() -> frozenset[int]:
    """Devices of /proc and /sys, whose files look regular, although some block or have no end."""
    return frozenset(os.stat(folder).st_dev for folder in ("/proc", "/sys") if os.path.ismount(folder))  # noqa: PTH116


def read_bytes(path: str | os.PathLike[str], most: int = MAX_TEXT) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is larger than {most:,} bytes, the limit for such a file")
    return data


def read_text(path: str | os.PathLike[str], most: int = MAX_TEXT) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, is larger than `most` bytes, or is not UTF-8; the message names
            UTF-16 and git-lfs pointers.
    """
    data = read_bytes(path, most)
    for beginning, what in _FOREIGN.items():
        if data.startswith(beginning):
            raise ValueError(f"{path} is {what}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def parse_json(text: str, where: object) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or is nested too deeply; the message begins with `where`, and gives line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}"
        raise ValueError(f"{where} is not JSON: {reason}") from None
    except RecursionError:
        raise ValueError(f"{where} is not JSON that can be read: nested too deeply") from None
    except ValueError as error:  # a number with more digits than Python reads
        raise ValueError(f"{where} is not JSON: {error}") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        OSError, ValueError: see `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, MAX_JSON), path)


class Inputs:
    """Files that take long to read, as they were when this object was made: `check` tells whether they have changed.

    Their size, time of change and identity are compared. Folders, devices and files that do not exist are left out.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self._before = {path: _state(path) for path in map(Path, paths) if path.is_file()}

    def only(self, *paths: str | os.PathLike[str]) -> Inputs:
        """The files that turned out to be read: as they were if they are known already, others as they are now."""
        chosen = Inputs(*paths)
        chosen._before |= {path: self._before[path] for path in chosen._before.keys() & self._before.keys()}
        return chosen

    def check(self) -> None:
        """Call this when everything has been read, before the result gets its name.

        Raises:
            ValueError: a file is gone, or has been written to or replaced since.
        """
        for path, before in self._before.items():
            if not path.is_file() or _state(path) != before:
                raise ValueError(
                    f"{path} changed while it was being read, so the result would mix two states of it: nothing was "
                    "written; run the command again when the file is complete"
                )


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
