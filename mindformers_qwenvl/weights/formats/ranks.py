"""The checkpoint of a distributed training, `rank_0`, `rank_1`, ..., read as if it were one file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from mindformers_qwenvl.weights.formats.ckpt_file import ckpt_tensors
from mindformers_qwenvl.weights.formats.rank_folders import SavedFile, last_common, rank_folders, rank_of, saved_files
from mindformers_qwenvl.weights.formats.strategy import Cut, read_strategies
from mindformers_qwenvl.weights.formats.weight_file import StoredTensor, WeightFile, safetensors_tensors
from mindformers_qwenvl.weights.names import is_training_state
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["RankFiles", "later_files", "rank_files", "strategy_files"]


def rank_files(path: Path) -> dict[int, Path]:
    """Rank -> its weight file, of a folder with `rank_*` folders, or of one of these; empty for any other path.

    A training saves many times: the files are those of the last step that every rank has saved.

    Raises:
        ValueError: the ranks have no step in common, or the names of a rank's files do not say which is later.
    """
    saved = _saved(path)
    if not any(saved.values()):
        return {}
    common = last_common(saved)
    if not common:
        steps = {rank: ", ".join(f"{epoch}_{step}" for epoch, step in _steps(files)) for rank, files in saved.items()}
        found = listed(f"rank_{rank}: {names or 'none'}" for rank, names in steps.items())
        raise ValueError(f"{path}: its {len(saved)} ranks have no saved step (EPOCH_STEP) in common; found {found}")
    return {rank: file.path for rank, file in common.items()}


def _steps(files: Sequence[SavedFile]) -> list[tuple[int, ...]]:
    return sorted({file.step for file in files if file.step})


def later_files(path: Path) -> list[Path]:
    """The last file of each rank if it is later than that of `rank_files`: not every rank has saved its step."""
    chosen = set(rank_files(path).values())
    last = [files[-1].path for files in _saved(path).values() if files]
    return [file for file in last if file not in chosen]


def _saved(path: Path) -> dict[int, list[SavedFile]]:
    rank = rank_of(path)
    folders = rank_folders(path) if rank is None else {rank: path}
    saved = {rank: saved_files(folder) for rank, folder in folders.items()}
    for rank, files in saved.items():
        for earlier, later in pairwise(files):
            if earlier.order == later.order:
                names = " and ".join(sorted((earlier.path.name, later.path.name)))
                raise ValueError(
                    f"{path}, rank {rank}: holds {names}, but their names do not say which is later: move away the one "
                    "you do not want"
                )
    return saved


def strategy_files(path: Path, given: Path | None) -> list[Path]:
    """The strategy files: those given (a file or a folder), or those in the folder `strategy` beside the checkpoint.

    Raises:
        FileNotFoundError: `given` holds none.
    """
    folder = given
    if given is None:
        around = (path.parent, path.parent.parent)
        folder = next((place / "strategy" for place in around if (place / "strategy").is_dir()), None)
    if folder is None:
        return []
    files = [folder] if folder.is_file() else sorted(folder.glob("*.ckpt"))
    if given is not None and not files:
        raise FileNotFoundError(f"{given}: expected a MindSpore strategy file, or a folder of them (*.ckpt)")
    return files


class RankFiles:
    """Weights split over ranks. A block is assembled from the rows of the parts it touches; nothing else is read.

    Attributes:
        path: the folder.
        tensors: name -> dtype and shape of the whole tensor; `ranges` is empty.
    """

    def __init__(self, path: Path, files: dict[int, Path], strategies: list[Path]):
        """Read the headers of all ranks.

        Raises:
            ValueError: parts of a weight are missing, or do not fit together.
        """
        self.path = path
        cuts = read_strategies(strategies)
        self._files = {
            rank: WeightFile(file, (ckpt_tensors if file.suffix == ".ckpt" else safetensors_tensors)(file))
            for rank, file in files.items()
        }
        holders: dict[str, dict[int, StoredTensor]] = defaultdict(dict)
        for rank, file in self._files.items():
            for name, stored in file.tensors.items():
                holders[name][rank] = stored
        self.tensors: dict[str, StoredTensor] = {}
        self._parts: dict[str, dict[tuple[int, ...], WeightFile]] = {}
        for name, by_rank in holders.items():
            cut = None if is_training_state(name) else cuts.get(name)
            self._join(name, by_rank, cut)

    def _join(self, name: str, by_rank: dict[int, StoredTensor], cut: Cut | None) -> None:
        rank, first = min(by_rank.items())
        grid = cut.parts if cut is not None else (1,) * len(first.shape)
        if len(grid) != len(first.shape):
            raise ValueError(f"{self.path}: {name} is {list(first.shape)}, its strategy cuts {len(grid)} dimensions")
        parts: dict[tuple[int, ...], WeightFile] = {}
        for rank, stored in by_rank.items():
            if stored[:2] != first[:2] and not is_training_state(name):
                raise ValueError(
                    f"{self.path}: {name} is {first.dtype} {list(first.shape)} in rank {min(by_rank)} and "
                    f"{stored.dtype} {list(stored.shape)} in rank {rank}"
                )
            parts.setdefault(cut.part(rank) if cut is not None else (0,) * len(grid), self._files[rank])
        absent = [index for index in np.ndindex(*grid) if index not in parts]
        if absent:
            raise ValueError(
                f"{self.path}: of {name}, cut into {list(grid)}, the parts {listed(map(str, absent), limit=20)} are in "
                f"none of the ranks {listed(map(str, self._files), limit=20)}: put the folders of all ranks here"
            )
        shape = tuple(side * count for side, count in zip(first.shape, grid, strict=True))
        self.tensors[name] = StoredTensor(first.dtype, shape, ())
        self._parts[name] = parts

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        """As `WeightFile.read_into`; several threads may call it."""
        shape, parts = self.tensors[name].shape, self._parts[name]
        if len(parts) == 1:
            next(iter(parts.values())).read_into(name, start, numbers)
            return
        row = math.prod(shape[1:])
        first, last = start // row, -(-(start + numbers.size) // row)
        rows = np.empty((last - first, *shape[1:]), numbers.dtype)
        for index, file in parts.items():
            held = file.tensors[name].shape
            top = index[0] * held[0]
            begin, end = max(first, top), min(last, top + held[0])
            if begin >= end:
                continue
            piece = np.empty((end - begin, *held[1:]), numbers.dtype)
            file.read_into(name, (begin - top) * math.prod(held[1:]), piece.reshape(-1))
            columns = (slice(i * side, (i + 1) * side) for i, side in zip(index[1:], held[1:], strict=True))
            rows[(slice(begin - first, end - first), *columns)] = piece
        offset = start - first * row
        numbers[:] = rows.reshape(-1)[offset : offset + numbers.size]

    def copy_to(self, descriptor: int, position: int, name: str, start: int, length: int) -> bool:
        """As `WeightFile.copy_to`, for weights that are whole in one file."""
        parts = self._parts[name]
        return len(parts) == 1 and next(iter(parts.values())).copy_to(descriptor, position, name, start, length)

    def close(self) -> None:
        """Close all files; another read opens them again."""
        for file in self._files.values():
            file.close()
