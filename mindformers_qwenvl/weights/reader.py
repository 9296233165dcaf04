"""Lazy reading of checkpoints: safetensors, PyTorch and MindSpore files, alone or as shards in a folder.

Opening reads headers only. Values come as flat ranges of numbers, so that a caller's memory is bounded by the range it
asks for. No file is ever executed: PyTorch files go through torch's weights-only loading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mindformers_qwenvl.weights.dtypes import STORAGE
from mindformers_qwenvl.weights.foreign import MindSporeFile, TorchFile
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["Checkpoint", "TensorInfo"]

SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
# What a HuggingFace trainer leaves beside the weights.
_NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}


@dataclass(frozen=True)
class TensorInfo:
    """Dtype (a safetensors code such as BF16) and shape of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class WeightFile(Protocol):
    """One file of a checkpoint."""

    def infos(self) -> Mapping[str, tuple[str, tuple[int, ...]]]: ...

    def read(self, name: str, start: int, stop: int) -> np.ndarray: ...

    def release(self) -> None: ...


class SafetensorsFile:
    """One .safetensors file, read with plain file reads: mapped pages would count as this process's memory."""

    def __init__(self, path: Path):
        self.path = path
        self._file = None
        self._tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}

    def infos(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if 8 + length <= size else b""
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            self._tensors = {
                name: (entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
                for name, entry in entries.items()
            }
            end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{self.path} is no safetensors file, or is cut off in its header ({error})") from None
        if end != size:
            raise ValueError(f"{self.path} is damaged: its header describes {end:,} bytes, the file has {size:,}")
        for name, entry in entries.items():
            held = entry["data_offsets"][1] - entry["data_offsets"][0]
            if entry["dtype"] in STORAGE:
                needed = int(np.prod(entry["shape"], dtype=np.int64)) * STORAGE[entry["dtype"]].itemsize
                if held != needed:
                    raise ValueError(f"{self.path} is damaged: {name} holds {held:,} bytes, its shape needs {needed:,}")
        return {name: (dtype, shape) for name, (dtype, shape, _) in self._tensors.items()}

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        dtype, _, offset = self._tensors[name]
        storage = STORAGE[dtype]
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        self._file.seek(offset + start * storage.itemsize)
        return np.fromfile(self._file, storage, stop - start)

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Checkpoint:
    """A checkpoint opened for reading: a single file, or a folder of shards with or without an index.

    Attributes:
        tensors: name -> TensorInfo, in the order the files hold them.
        files: the files that hold them.
    """

    def __init__(self, path: str | os.PathLike):
        """Open `path` and read the headers.

        Raises:
            FileNotFoundError: there is no such path, no weights in the folder, or a shard of its index is missing.
            ValueError: a file is damaged or disagrees with the index, or two files hold the same tensor.
            ImportError: PyTorch shards, and torch is not installed.
        """
        self.path = Path(path)
        self.files, index = _weight_files(self.path)
        self.tensors: dict[str, TensorInfo] = {}
        self._owner: dict[str, WeightFile] = {}
        self._current: WeightFile | None = None
        for file in self.files:
            self._add(file)
        if index is not None:
            self._check_index(index)

    def _add(self, path: Path) -> None:
        weights = _open(path)
        for name, (dtype, shape) in weights.infos().items():
            if name in self._owner:
                raise ValueError(
                    f"{path} holds {name} again: {self.path} mixes two checkpoints. "
                    "Keep one, or add the index file of the one that is meant"
                )
            self.tensors[name] = TensorInfo(dtype, tuple(shape))
            self._owner[name] = weights
        weights.release()

    def _check_index(self, index: Path) -> None:
        listed_names = set(_weight_map(index))
        if absent := sorted(listed_names - self.tensors.keys()):
            raise ValueError(f"{index} lists tensors its shards do not hold: {listed(absent)}")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Numbers [start, stop) of the flattened tensor `name`, in the storage type of its dtype (see dtypes.py)."""
        weights = self._owner[name]
        if weights is not self._current:
            self.close()
            self._current = weights
        return weights.read(name, start, self.tensors[name].size if stop is None else stop)

    def close(self) -> None:
        """Let go of the file read last."""
        if self._current is not None:
            self._current.release()
            self._current = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)


def _open(path: Path) -> WeightFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    return MindSporeFile(path) if path.suffix == ".ckpt" else TorchFile(path)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(Path(file).name == file for file in weight_map.values()):
            raise ValueError("a shard outside the folder")
        return weight_map
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no weight index ({type(error).__name__}: {error})") from None


def _weight_files(path: Path) -> tuple[list[Path], Path | None]:
    """The weight files of `path` and its index, safetensors before PyTorch before MindSpore."""
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
                raise FileNotFoundError(f"{index} names shards that are not there: {listed(absent)}")
            return shards, index
        files = sorted(file for file in path.iterdir() if file.suffix in suffixes and file.name not in _NO_WEIGHTS)
        files = [file for file in files if not file.name.startswith(("rng_state", "."))]
        if files:
            return files, None
    raise FileNotFoundError(f"{path} holds no weights: no .safetensors, .bin, .pt, .pth or .ckpt file")
