"""Whether a conversion may write where it is told to: not over its input, and only what fits on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from mindformers_qwenvl import files
from mindformers_qwenvl.weights.convert.workfolder import UNFINISHED

__all__ = ["FILES", "check_destination", "check_read", "check_space", "locked"]

FILES = (".safetensors", ".ckpt")  # what is written as one file; any other output is a folder


def check_destination(source: Path, output: Path, reverse: bool) -> None:
    """Refuse an output whose path alone shows that it is wrong.

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


def check_read(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output that would overwrite or remove one of the files `inputs`, which are read.

    Raises:
        ValueError: it is such a file, or a folder that holds one: older weights in that folder are replaced.
    """
    if output.suffix in FILES:
        if output.exists() and any(output.samefile(file) for file in inputs):
            raise ValueError(f"{output} is a file of the input: give another output path")
        return
    held = (file for file in inputs if _lies_in(file, output))
    if (file := next(held, None)) is not None:
        raise ValueError(f"{output} holds {file.name}, which is the input: give another output path")


def _lies_in(file: Path, folder: Path) -> bool:
    """Whether `file`, or its target if it is a link, is in `folder` or in its working folder."""
    places = (folder.resolve(), folder.resolve() / UNFINISHED)
    return file.parent.resolve() in places or file.resolve().parent in places


def check_space(output: Path, needed: int, left_over: Sequence[Path] = ()) -> None:
    """Refuse to begin if the disk has too little room.

    Args:
        left_over: files of an earlier run that will be overwritten if they exist: their room counts as free.

    Raises:
        OSError: there are fewer than `needed` bytes free.
    """
    place = next(parent for parent in (output.resolve(), *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free + sum(_on_disk(file) for file in left_over if file.is_file())
    if free < needed:
        raise OSError(f"{output} needs {needed:,} bytes, the disk has {free:,} free")


def _on_disk(file: Path) -> int:
    return file.stat().st_blocks * 512  # a file may have holes; blocks are counted in 512 bytes everywhere


def locked(output: Path) -> AbstractContextManager[None]:
    """Be the only conversion that writes `output`.

    Raises:
        ValueError: another one is writing it.
    """
    # For a folder, inside it, since its parent may not be writable; for a file, beside it.
    lock = files.lock_file(output) if output.suffix in FILES else output.resolve() / "conversion.lock"
    return files.locked(lock, f"{output}: another conversion is writing it; wait for it or give another output path")
