"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["check_output", "replacing"]


def check_output(path: str | os.PathLike[str], *needed: str | os.PathLike[str] | None) -> None:
    """Refuse a file that could not be written, or would overwrite one of the files `needed`, before the work is begun.

    Raises:
        ValueError: it is one of them, under whatever name.
        OSError: it is a folder, or the folder it should be in is not there or not writable.
    """
    path = Path(path)
    for given in needed:
        if given and _are_same(path, Path(given)):
            raise ValueError(f"{path} would overwrite {given}, which is needed: give it another name")
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
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO]:
    """A file to write; it gets the name `path` when the block ends, and goes away if the block raises.

    Args:
        path: the final name; a file that has it is replaced, and so is the file that a link of this name leads to.
            /dev/stdout, a pipe and the like, which nothing can take the place of, are written to.
        mode: "w" for text in UTF-8, "wb" for bytes.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    if _is_device(path):
        with path.open(mode, encoding=encoding) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open(mode, encoding=encoding) as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
