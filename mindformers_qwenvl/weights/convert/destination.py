"""Whether a conversion may write where it is told to: not over what it reads, and not beyond the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mindformers_qwenvl.weights.convert.workfolder import UNFINISHED

__all__ = ["FILES", "check_output", "check_read", "check_space", "locked"]

FILES = (".safetensors", ".ckpt")  # what is written as one file; any other output is a folder
# A file system that has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def check_output(source: Path, output: Path, reverse: bool) -> None:
    """Refuse an output that the paths alone show to be wrong.

    Raises:
        ValueError: it is the input or a file of it, or has an unsupported suffix.
    """
    if output.suffix in (".bin", ".pt", ".pth", ".npz"):
        raise ValueError(f"{output}: expected OUT.safetensors, OUT.ckpt or a folder")
    if reverse and output.suffix == ".ckpt":
        raise ValueError(f"{output}: an original checkpoint is a folder or a .safetensors file, not a .ckpt")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input: give another output path")
    if output.is_file() and source.is_dir() and output.resolve().parent == source.resolve():
        raise ValueError(f"{output} is a file of the input: give another output path")


def check_read(output: Path, files: Sequence[Path]) -> None:
    """Refuse an output where one of the `files` that are read would be overwritten or removed.

    Raises:
        ValueError: it is such a file, or a folder that holds one: that folder's older weights make room for new ones.
    """
    if output.suffix in FILES:
        if output.exists() and any(output.samefile(file) for file in files):
            raise ValueError(f"{output} is a file of the input: give another output path")
        return
    held = (file for file in files if _lies_in(file, output))
    if (file := next(held, None)) is not None:
        raise ValueError(f"{output} holds {file.name}, which is the input: give another output path")


def _lies_in(file: Path, folder: Path) -> bool:
    """Whether `file` is in `folder`, as it is named or as what a link leads to, or in its working folder."""
    places = (folder.resolve(), folder.resolve() / UNFINISHED)
    return file.parent.resolve() in places or file.resolve().parent in places


def check_space(output: Path, needed: int, left_over: Sequence[Path] = ()) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        left_over: files of an earlier run that will be overwritten, if they are there: their room is free.

    Raises:
        OSError: there are fewer than `needed` bytes free.
    """
    place = next(parent for parent in (output.resolve(), *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free + sum(_on_disk(file) for file in left_over if file.is_file())
    if free < needed:
        raise OSError(f"{output} needs {needed:,} bytes, the disk has {free:,} free")


def _on_disk(file: Path) -> int:
    return file.stat().st_blocks * 512  # a file may have holes; blocks are counted in 512 bytes everywhere


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Be the only conversion that writes `output`; a process that dies lets go of it.

    Raises:
        ValueError: another one is writing it.
    """
    path = _lock_file(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, output)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock_file(output: Path) -> Path:
    """Inside a folder, as the place beside it may not be writable; beside a file."""
    if output.suffix in FILES:
        return output.parent.resolve() / f".{output.name}.lock"
    return output.resolve() / "conversion.lock"


def _lock(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                if not isinstance(error, BlockingIOError):
                    raise
                raise ValueError(
                    f"{output}: another conversion is writing it; wait for it or give another output path"
                ) from None
        # The one before may have removed the file after it was opened here: then the lock is on nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
