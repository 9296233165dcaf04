"""File locks, which are released when the process that holds them ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["lock", "lock_file", "locked", "not_in_children"]

# Errors that a file system without locks gives.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def lock_file(path: Path) -> Path:
    """The lock file of `path`, for `locked`: a hidden file beside it, or beside its target if it is a link."""
    path = Path(os.path.realpath(path))
    return path.parent / f".{path.name}.lock"


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`: no other process or block can hold it meanwhile. It is removed at the end.

    A process that dies releases it. Where the file system has no locks, nobody is kept out.

    Args:
        busy: the message of the error: what is in use, and what to do.

    Raises:
        ValueError: another process or block holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if lock(descriptor, path):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(busy) from None
        os.close(descriptor)
    try:
        with not_in_children(descriptor):
            yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False if `path` is now another file, because the last holder removed it: try again.

    Raises:
        BlockingIOError: it is locked already.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


_locked: set[int] = set()  # descriptors of locked files


@contextmanager
def not_in_children(*descriptors: int) -> Iterator[None]:
    """A process that is forked in this block does not hold the locks of the descriptors: a worker may outlive its
    parent by a moment, and the next command must not conclude that the parent is still at work."""
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
