"""What a training saved in the folders rank_0, rank_1, ...: in which order, and the last step that all ranks have.

MindFormers names the files PREFIX_rank_0-EPOCH_STEP. MindSpore adds the number of the run, PREFIX_rank_0_1-EPOCH_STEP,
where the folder holds files of earlier runs; it differs from rank to rank once the number of processes has changed.
A later run takes precedence over a later step: a training that is started anew counts from step 1 again. Plain Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mindformers_qwenvl.files import read_json

__all__ = ["SUFFIXES", "SavedFile", "last_common", "last_noted", "rank_folders", "rank_of", "saved_files"]

SUFFIXES = (".ckpt", ".safetensors")

_FOLDER = re.compile(r"rank_(\d+)")
_FILE = re.compile(
    r"(?:(?P<prefix>.+)_rank_\d+(?:_(?P<run>\d+)(?=[-_]))?(?P<kind>.*)|(?P<other>.*))-(?P<epoch>\d+)_(?P<step>\d+)"
)
_Rank = TypeVar("_Rank")


class SavedFile(NamedTuple):
    """A weight file of a rank, and what its name says.

    Attributes:
        order: (run, epoch, step), in which files were saved; empty for a name without a step.
        kind: the rest of the name without the rank. It marks files in which MindFormers saves only some parameters.
    """

    path: Path
    order: tuple[int, ...]
    kind: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> SavedFile:
        match = _FILE.fullmatch(path.stem)
        if match is None:
            return cls(path, (), (path.stem,))
        named = match["other"] is None
        kind = (match["prefix"], match["kind"]) if named else (match["other"],)
        return cls(path, (int(match["run"] or 0), int(match["epoch"]), int(match["step"])), kind)

    @property
    def run(self) -> int:
        return self.order[0] if self.order else 0

    @property
    def step(self) -> tuple[int, ...]:
        """(epoch, step)"""
        return self.order[1:]

    def is_same_step(self, other: SavedFile) -> bool:
        """Whether `other` is the same file of another rank, whatever run number that rank counts."""
        return (self.step, self.kind) == (other.step, other.kind)


def rank_of(folder: Path) -> int | None:
    """The rank whose folder this is by its name; None for any other path."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def rank_folders(path: Path) -> dict[int, Path]:
    """Rank -> its folder in the folder `path`, in order; empty if there are none."""
    folders = path.glob("rank_*") if path.is_dir() else ()
    return dict(sorted((rank, folder) for folder in folders if (rank := rank_of(folder)) is not None))


def saved_files(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[SavedFile]:
    """The weight files of a rank, in the order they were saved; if names do not tell, by their time of change."""
    files = sorted(
        (file for file in folder.iterdir() if file.suffix in suffixes), key=lambda file: (file.stat().st_mtime, file)
    )
    return sorted(map(SavedFile.of, files), key=lambda file: file.order)


def last_noted(folder: Path) -> tuple[int, int] | None:
    """(epoch, step) of the last complete file, from MindFormers' note beside it, meta.json; None if there is no note.

    The note is written after a file is complete; with `async_save`, and for a file saved on an error, not at all. So a
    later file may be complete or not.

    Raises:
        ValueError: the note is damaged.
    """
    note = folder / "meta.json"
    try:
        content = read_json(note)
        return int(content["last_epoch"]), int(content["last_step"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{note}: not MindFormers' note of the last checkpoint ({error}); remove it if the checkpoints beside it "
            "are complete"
        ) from error


def last_common(saved: Mapping[_Rank, Sequence[SavedFile]]) -> dict[_Rank, SavedFile]:
    """Rank -> its file of the last step that all ranks have; empty if there is no such step.

    If a run has saved this step in all ranks, all files are those of the last such run. Otherwise each rank's file is
    that of its last run.

    Args:
        saved: the files of each rank, in the order they were saved, the lowest rank first: it decides what is last.
    """
    if not saved:
        return {}
    steps = [{file.step for file in files} for files in saved.values()]
    candidates = [_of_step(saved, step) for step in set.intersection(*steps)]
    return max(candidates, key=lambda files: next(iter(files.values())).order, default={})


def _of_step(saved: Mapping[_Rank, Sequence[SavedFile]], step: tuple[int, ...]) -> dict[_Rank, SavedFile]:
    by_run = {rank: {file.run: file for file in files if file.step == step} for rank, files in saved.items()}
    runs = set.intersection(*(set(files) for files in by_run.values()))
    return {rank: files[max(runs or files)] for rank, files in by_run.items()}
