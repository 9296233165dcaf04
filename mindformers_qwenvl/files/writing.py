"""Writing files that are complete or not there at all.

A file is written under a temporary name beside its own, NAME.PID-N.tmp, and gets its name when it is complete. It is
locked while it is being written: a temporary file without a lock was left by a process that was killed, and the next
process that writes NAME removes it. Nothing waits for the disk (no fsync): a process may die at any moment without
harm, but what was written shortly before a power failure may be lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mindformers_qwenvl.files.locks import lock, not_in_children

__all__ = ["check_output", "copy_file", "remove_leftovers", "replacing", "write_json"]


def check_output(path: str | os.PathLike[str], *needed: str | os.PathLike[str] | None) -> None:
    """Refuse a file that cannot be written, or that would overwrite one of the files `needed`, before any work is done.

    Raises:
        ValueError: it is one of them, perhaps under another name.
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
def replacing(
    path: str | os.PathLike[str], mode: str = "wb", buffering: int = -1, permissions: int = 0o666
) -> Iterator[IO]:
    """A file to write, which gets the name `path` when the block ends, and is removed if the block raises.

    Args:
        path: the final name. A file of that name is replaced; if it is a link, its target is. /dev/stdout, a pipe and
            the like cannot be replaced; they are written to directly.
        mode: "w" for text in UTF-8, "wb" for bytes.
        buffering: as for `open`.
        permissions: of a new file, from its first byte on; the process's umask takes some away.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    if _is_device(path):
        with path.open(mode, encoding=encoding) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    remove_leftovers(path)
    descriptor, unfinished = _create_unfinished(path, permissions)
    written = os.dup(descriptor)
    try:
        with not_in_children(descriptor, written), os.fdopen(written, mode, buffering, encoding=encoding) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
        os.close(descriptor)  # the lock is released last: until then nobody takes the file for a leftover


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    with replacing(path, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of a file, whole or not at all."""
    with source.open("rb") as original, replacing(target) as copy:
        shutil.copyfileobj(original, copy)


def remove_leftovers(path: Path) -> list[Path]:
    """Remove the temporary files of `path` that killed processes left; those being written stay.

    Returns:
        The removed files. Where the file system has no locks there are none: leftovers cannot be told apart.
    """
    pattern = re.compile(rf"{re.escape(path.name)}(\.\d+(-\d+)?)?\.tmp")
    removed = []
    for file in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
        if not pattern.fullmatch(file.name) or not file.is_file():
            continue
        with contextlib.suppress(OSError):  # gone already, or owned by another user
            descriptor = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
                removed.append(file)
            finally:
                os.close(descriptor)
    return removed


def _create_unfinished(path: Path, permissions: int) -> tuple[int, Path]:
    """A new temporary file of `path`, open for writing and locked."""
    for number in itertools.count():
        unfinished = path.with_name(f"{path.name}.{os.getpid()}-{number}.tmp")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions)
        except FileExistsError:
            continue
        with contextlib.suppress(BlockingIOError):  # somebody is removing it as a leftover
            if lock(descriptor, unfinished):
                return descriptor, unfinished
        os.close(descriptor)
    raise AssertionError("unreachable")
