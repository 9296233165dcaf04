"""Files that are whole or not there at all, locks, and inputs that must not change. Plain Python.

A file is written under a temporary name beside its own, NAME.PID-N.tmp, and gets its name when it is complete. While it
is written it is locked: a temporary file without a lock was left by a process that was killed, and the next one that
writes NAME removes it. Nothing waits for the disk (no fsync): a process may die at any moment, but what was written
shortly before the power fails may be lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = [
    "Inputs",
    "cache_folder",
    "check_output",
    "check_private",
    "copy_file",
    "lock_file",
    "locked",
    "open_regular",
    "parse_json",
    "private_folder",
    "read_bytes",
    "read_json",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_json",
]

MAX_TEXT = 256 << 20  # bytes of a file that is read whole; larger datasets are read record by record
MAX_JSON = 16 << 20  # bytes of a config.json, an index of shards and the like
# How a file begins that holds no text in UTF-8, and what it is.
_FOREIGN = {
    b"version https://git-lfs.": "a pointer of git-lfs, not the file itself: run `git lfs pull` where it was cloned",
    b"\xff\xfe": "UTF-16, not UTF-8: save it again as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: save it again as UTF-8",
}
# What a file system without locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def check_output(path: str | os.PathLike[str], *needed: str | os.PathLike[str] | None) -> None:
    """Refuse a file that cannot be written, or that would overwrite one of the files `needed`, before any work is done.

    Raises:
        ValueError: it is one of them, under whatever name.
        OSError: it is a folder, or its folder is missing or not writable.
    """
    path = Path(path)
    for given in needed:
        if given and _are_same(path, Path(given)):
            raise ValueError(f"{path} would overwrite {given}, which is needed: give another name")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(path if _is_device(path) else folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: no permission to write {folder}")


def _are_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb", buffering: int = -1) -> Iterator[IO]:
    """A file to write, which gets the name `path` when the block ends, and is removed if the block raises.

    Args:
        path: the final name. A file of that name is replaced; if it is a link, the file it leads to is. /dev/stdout, a
            pipe and the like, which cannot be replaced, are written to.
        mode: "w" for text in UTF-8, "wb" for bytes.
        buffering: as for `open`.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    if _is_device(path):
        with path.open(mode, encoding=encoding) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    remove_leftovers(path)
    descriptor, unfinished = _create_unfinished(path)
    written = os.dup(descriptor)
    try:
        with _not_in_children(descriptor, written), os.fdopen(written, mode, buffering, encoding=encoding) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(descriptor)  # the lock goes last: until then nobody takes the file for a leftover


_locked: set[int] = set()  # descriptors of locked files


@contextmanager
def _not_in_children(*descriptors: int) -> Iterator[None]:
    """A process that is forked in this block does not hold the locks of the descriptors: a worker may outlive its
    parent by a moment, and the next command must not take that for a parent at work."""
    _locked.update(descriptors)
    try:
        yield
    finally:
        _locked.difference_update(descriptors)


def _let_go() -> None:
    if _locked:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in _locked:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
        _locked.clear()


os.register_at_fork(after_in_child=_let_go)


class Inputs:
    """Files that are read for long, as they were when this was made: `check` tells whether they still are.

    Their size, time of change and identity are compared. Folders, devices and files that do not exist are left out.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self._before = {path: _state(path) for path in map(Path, paths) if path.is_file()}

    def only(self, *paths: str | os.PathLike[str]) -> Inputs:
        """Those of the files that turned out to be read, as they were, and others as they are now."""
        chosen = Inputs(*paths)
        chosen._before |= {path: self._before[path] for path in chosen._before.keys() & self._before.keys()}
        return chosen

    def check(self) -> None:
        """To be called when everything has been read, before a result gets its name.

        Raises:
            ValueError: a file is gone, or has been written to or replaced since.
        """
        for path, before in self._before.items():
            if not path.is_file() or _state(path) != before:
                raise ValueError(
                    f"{path} changed while it was being read, so the result would mix two states of it: nothing is "
                    "written; run the command again when the file is complete"
                )


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """A regular file, open for reading. A pipe or a device would never end, or never begin.

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
    """Of /proc and /sys, whose files look regular, and some of which wait or have no end."""
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
        raise ValueError(f"{path} is larger than {most:,} bytes, the most that is read")
    return data


def read_text(path: str | os.PathLike[str], most: int = MAX_TEXT) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file (a pipe or a device would never end), larger than `most` bytes, or not
            UTF-8; UTF-16 and pointers of git-lfs are named.
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
        ValueError: it is not JSON, or is nested too deeply; begins with `where`, and gives line and column.
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


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    with replacing(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, whole or not at all."""
    with source.open("rb") as original, replacing(target) as copy:
        shutil.copyfileobj(original, copy)


def private_folder(path: Path) -> Path:
    """The folder `path`, made if need be, that this user alone can write into.

    Raises:
        OSError: it cannot be made; or it is a link, belongs to another user, or others can write into it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_private(path)
    return path


def check_private(path: Path) -> None:
    """Raise PermissionError if `path` is a link, belongs to another user, or can be written by others."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} is a link, belongs to another user, or can be written by others")


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mindformers-qwenvl, or that in ~/.cache: see `private_folder`.

    Raises:
        OSError: as `private_folder`, or there is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:  # no home folder
        raise FileNotFoundError(str(error)) from None
    return private_folder(place / "mindformers-qwenvl")


def remove_leftovers(path: Path) -> list[Path]:
    """Remove the temporary files of `path` that killed processes left; those being written stay.

    Returns:
        What was removed. Where the file system has no locks nothing is: there is no telling.
    """
    pattern = re.compile(rf"{re.escape(path.name)}(\.\d+(-\d+)?)?\.tmp")
    removed = []
    for file in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if not pattern.fullmatch(file.name) or not file.is_file():
            continue
        with contextlib.suppress(OSError):  # gone already, or of another user
            descriptor = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
                removed.append(file)
            finally:
                os.close(descriptor)
    return removed


def _create_unfinished(path: Path) -> tuple[int, Path]:
    """A new temporary file of `path`, open for writing and locked."""
    for number in itertools.count():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}-{number}.tmp")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        with contextlib.suppress(BlockingIOError):  # somebody is removing it as a leftover
            if _lock(descriptor, unfinished):
                return descriptor, unfinished
        os.close(descriptor)
    raise AssertionError("unreachable")


def lock_file(path: Path) -> Path:
    """The file for `locked` that stands for `path`: a hidden one beside it, or beside the file that a link leads to."""
    path = Path(os.path.realpath(path))
    return path.parent / f".{path.name}.lock"


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Be the only process, and the only block of this one, that holds the lock file `path`; it is removed at the end.

    A process that dies lets go of it. Where the file system has no locks, nobody is kept out.

    Args:
        busy: the message of the error: what is in use, and what to do.

    Raises:
        ValueError: another one holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(descriptor, path):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(busy) from None
        os.close(descriptor)
    try:
        with _not_in_children(descriptor):
            yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False if `path` is another file by now, as its last holder has removed it: try again.

    Raises:
        BlockingIOError: another one has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
