"""Folders that only this user can write into, and the cache folder, which is kept between runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["cache_folder", "check_private", "private_folder"]


def private_folder(path: Path) -> Path:
    """The folder `path`, created if necessary; only this user can write into it.

    Raises:
        OSError: it cannot be created; or it is a link, belongs to another user, or others can write into it.
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
    """$XDG_CACHE_HOME/mindformers-qwenvl or ~/.cache/mindformers-qwenvl, see `private_folder`.

    Raises:
        OSError: as `private_folder`, or there is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:  # no home folder
        raise FileNotFoundError(str(error)) from None
    return private_folder(place / "mindformers-qwenvl")
