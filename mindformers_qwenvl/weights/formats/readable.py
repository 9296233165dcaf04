"""What every opened checkpoint offers, whatever the format of its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.weights.convert.dtypes import STORAGE

__all__ = ["Readable", "TensorInfo"]

_Opened = TypeVar("_Opened", bound="Readable")


@dataclass(frozen=True)
class TensorInfo:
    """Dtype (a safetensors code such as BF16) and shape of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Readable(ABC):
    """Tensors that are read as ranges of numbers. A context manager, and an iterator of the tensors' names.

    Attributes:
        path: the path that was opened.
        tensors: name -> TensorInfo, in the order the files hold them.
        files: the files that hold them, strategy files included.
        of_ranks: whether they come from a distributed training.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    files: list[Path]
    of_ranks: bool

    @abstractmethod
    def stored(self, name: str) -> tuple[str, ...]:
        """Names in the files of what the tensor `name` is made of."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Numbers [start, stop) of the flattened tensor `name`, in the storage type of its dtype (see dtypes.py).

        Raises:
            ValueError: the dtype is not one that can be read.
        """
        info = self.tensors[name]
        if info.dtype not in STORAGE:
            raise ValueError(f"{self.path}: {printable(name)} is {printable(info.dtype)}, which cannot be read")
        numbers = np.empty((info.size if stop is None else stop) - start, STORAGE[info.dtype])
        self.read_into(name, start, numbers)
        return numbers

    @abstractmethod
    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        """As `read`, from `start` on, into an existing array; several threads may call it."""

    def read_as(self, name: str, start: int, code: str, numbers: np.ndarray) -> bool:
        """As `read_into`, but rounded to the dtype `code`; False if it cannot, or if some are not finite then."""
        return False

    @abstractmethod
    def copy_to(self, descriptor: int, position: int, name: str, start: int, count: int) -> bool:
        """Have the system copy `count` numbers as they are into an open file; False if it cannot."""

    @abstractmethod
    def close(self) -> None:
        """Close the files; another read opens them again."""

    def __enter__(self: _Opened) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)
