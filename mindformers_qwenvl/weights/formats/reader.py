"""Lazy reading of checkpoints: safetensors, PyTorch and MindSpore files, alone or as shards in a folder.

Opening reads headers only. Values come as flat ranges of numbers, so that a caller's memory is bounded by the range it
asks for. Neither PyTorch nor MindSpore is needed, and no code in a file is ever executed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mindformers_qwenvl.files import open_regular, read_json
from mindformers_qwenvl.weights.convert.dtypes import STORAGE
from mindformers_qwenvl.weights.formats.ckpt_file import ckpt_tensors
from mindformers_qwenvl.weights.formats.ranks import RankFiles, rank_files, strategy_files
from mindformers_qwenvl.weights.formats.readable import Readable, TensorInfo
from mindformers_qwenvl.weights.formats.torch_file import torch_tensors
from mindformers_qwenvl.weights.formats.weight_file import WeightFile, safetensors_tensors
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["Checkpoint", "weight_names"]

SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
GIT_LFS = b"version https://git-lfs."
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
# What a HuggingFace trainer leaves beside the weights.
_NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}


class Checkpoint(Readable):
    """A checkpoint opened for reading: a single file, or a folder of shards with or without an index."""

    def __init__(self, path: str | os.PathLike, strategy: str | os.PathLike | None = None):
        """Open `path` and read the headers.

        Args:
            path: a file, a folder of shards, or a folder of `rank_*` folders: see ranks.py.
            strategy: how the ranks' weights were cut: a strategy file, or a folder of them. By default, the files
                that MindFormers left beside the checkpoint; without any, each rank is assumed to hold whole weights.

        Raises:
            FileNotFoundError: the path does not exist, the folder holds no weights, or a shard of its index is missing.
            ValueError: a file is damaged or disagrees with the index, or two files hold the same tensor.
        """
        self.path = Path(path)
        self.tensors: dict[str, TensorInfo] = {}
        self._owner: dict[str, WeightFile | RankFiles] = {}
        ranks = rank_files(self.path)
        self.of_ranks = bool(ranks)
        if ranks:
            strategies = strategy_files(self.path, Path(strategy) if strategy is not None else None)
            self.files = [*ranks.values(), *strategies]
            self._add(RankFiles(self.path, ranks, strategies))
            return
        if strategy is not None:
            raise ValueError(f"{self.path} has no folders rank_0, rank_1, ...: a strategy applies to these only")
        self.files, index = _weight_files(self.path)
        for file in self.files:
            self._add(_open(file))
        if index is not None:
            self._check_index(index)

    def _add(self, weights: WeightFile | RankFiles) -> None:
        for name, stored in weights.tensors.items():
            if name in self._owner:
                raise ValueError(
                    f"{weights.path} holds {name} again: {self.path} mixes two checkpoints. "
                    "Keep one of them, or add the index file of the one you want"
                )
            self.tensors[name] = TensorInfo(stored.dtype, stored.shape)
            self._owner[name] = weights

    def _check_index(self, index: Path) -> None:
        listed_names = set(_weight_map(index))
        if absent := sorted(listed_names - self.tensors.keys()):
            raise ValueError(f"{index} lists tensors its shards do not hold: {listed(absent)}")

    def stored(self, name: str) -> tuple[str, ...]:
        """Names in the files of what the tensor `name` is made of: itself."""
        return (name,)

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        self._owner[name].read_into(name, start, numbers)

    def copy_to(self, descriptor: int, position: int, name: str, start: int, count: int) -> bool:
        item = STORAGE[self.tensors[name].dtype].itemsize
        return self._owner[name].copy_to(descriptor, position, name, start * item, count * item)

    def close(self) -> None:
        for weights in set(self._owner.values()):
            weights.close()


def weight_names(path: Path) -> list[str]:
    """Names of the tensors of a checkpoint, from headers alone; of `rank_*` folders, those of the lowest rank.

    Raises:
        FileNotFoundError, ValueError: as `Checkpoint`.
    """
    ranks = rank_files(path)
    files = [ranks[min(ranks)]] if ranks else _weight_files(path)[0]
    return [name for file in files for name in _open(file).tensors]


def _open(path: Path) -> WeightFile:
    with open_regular(path) as file:
        if file.read(len(GIT_LFS)) == GIT_LFS:
            raise ValueError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` where it was cloned")
    tensors = {".safetensors": safetensors_tensors, ".ckpt": ckpt_tensors}.get(path.suffix, torch_tensors)
    return WeightFile(path, tensors(path))


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = read_json(index)["weight_map"]
        if not all(Path(file).name == file for file in weight_map.values()):
            raise ValueError("a shard outside the folder")
        return weight_map
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not a weight index ({type(error).__name__}: {error})") from None


def _weight_files(path: Path) -> tuple[list[Path], Path | None]:
    """The weight files of `path` and its index. Safetensors take precedence, then PyTorch's files, then .ckpt."""
    if path.is_file():
        if path.suffix not in (".safetensors", ".ckpt", *TORCH_SUFFIXES):
            raise ValueError(f"{path}: expected .safetensors, .bin, .pt, .pth or .ckpt, or a folder")
        return [path], None
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; expected a checkpoint folder or file")
    for index_name, suffixes in (
        (SAFETENSORS_INDEX, (".safetensors",)),
        (TORCH_INDEX, TORCH_SUFFIXES),
        ("", (".ckpt",)),
    ):
        if index_name and (index := path / index_name).is_file():
            shards = [path / file for file in sorted(set(_weight_map(index).values()))]
            if absent := [shard.name for shard in shards if not shard.is_file()]:
                raise FileNotFoundError(f"{index} names shards that do not exist: {listed(absent)}")
            return shards, index
        files = sorted(file for file in path.iterdir() if file.suffix in suffixes and file.name not in _NO_WEIGHTS)
        files = [file for file in files if not file.name.startswith(("rng_state", ".")) and file.is_file()]
        if files:
            return files, None
    if iterations := sorted(path.glob("iteration_*")):  # of MindFormers' section `checkpoint:`
        raise FileNotFoundError(f"{path} holds no weights itself; give one of its iterations, such as {iterations[-1]}")
    raise FileNotFoundError(f"{path} holds no weights: no .safetensors, .bin, .pt, .pth or .ckpt file")
