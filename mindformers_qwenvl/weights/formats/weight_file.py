"""One weight file, opened: where each tensor's numbers are in it, and reading ranges of them.

Whatever the format, a file is described by the positions of raw bytes in it and read with plain reads: pages of a
mapped file would count as this process's memory. Reading is safe from several threads.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.files import open_regular
from mindformers_qwenvl.weights.convert.dtypes import STORAGE

__all__ = ["StoredTensor", "WeightFile", "check_sides", "safetensors_tensors"]


MOST_SIDES = 32  # dimensions of a tensor; numpy's own limit. The product of thousands of sides takes minutes
LARGEST = (1 << 63) - 1  # a side, or the number of a tensor's numbers
_LONGEST_HEADER = 16 << 20  # bytes; that of a published model is 100 KB
# Two file systems that cannot copy to each other, or one that cannot at all.
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


class StoredTensor(NamedTuple):
    """A tensor of a file.

    Attributes:
        dtype: a safetensors code such as BF16; another word for a tensor that is not a weight.
        ranges: (position in the file, bytes); joined, they are the tensor's numbers.
        strides: only for a tensor that is stored transposed or spaced: numbers from one index of an axis to the next.
    """

    dtype: str
    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    strides: tuple[int, ...] | None = None


class WeightFile:
    """A file whose `tensors` are known, opened when the first of them is read."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]):
        self.path = path
        self.tensors = tensors
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._copies = hasattr(os, "copy_file_range")  # Linux has it

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        """Fill `numbers` [n], of the storage type, with numbers `start ... start + n` of the flattened tensor."""
        stored = self.tensors[name]
        if stored.strides is not None:
            numbers[:] = self._spaced(stored).flat[start : start + numbers.size]
            return
        into = memoryview(numbers).cast("B")
        descriptor = self._open()
        for position, length in self._spans(name, start * numbers.itemsize, len(into)):
            while length:  # a read may give less than it was asked for: Linux stops at 2 GiB
                count = os.preadv(descriptor, [into[:length]], position)
                if not count:
                    raise OSError(f"{self.path} was cut short while it was being read")
                into, position, length = into[count:], position + count, length - count

    def copy_to(self, descriptor: int, position: int, name: str, start: int, length: int) -> bool:
        """Have the system copy bytes `start ... start + length` of a tensor to `position` of another open file.

        Returns:
            False if it cannot, for these files or at all; bytes written before that are right or will be rewritten.
        """
        if not self._copies or self.tensors[name].strides is not None:
            return False
        source = self._open()
        for begin, count in self._spans(name, start, length):
            while count:
                try:
                    done = os.copy_file_range(source, descriptor, count, begin, position)
                except OSError as error:
                    if error.errno not in _NO_COPY:
                        raise
                    done = 0
                if not done:
                    self._copies = False
                    return False
                begin, position, count = begin + done, position + done, count - done
        return True

    def _spans(self, name: str, start: int, length: int) -> Iterator[tuple[int, int]]:
        """The (position, bytes) in the file of bytes `start ... start + length` of a tensor."""
        for position, held in self.tensors[name].ranges:
            if length and start < held:
                count = min(held - start, length)
                yield position + start, count
                length -= count
            start = max(0, start - held)
        if length:
            raise OSError(f"{self.path}: {name} ends {length:,} bytes too early")

    def _open(self) -> int:
        with self._opening:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            return self._descriptor

    def _spaced(self, stored: StoredTensor) -> np.ndarray:
        """A view of mapped pages, which are released with the view."""
        storage = STORAGE[stored.dtype]
        ((position, length),) = stored.ranges
        mapped = np.memmap(self.path, storage, "r", position, (length // storage.itemsize,))
        steps = [step * storage.itemsize for step in stored.strides or ()]
        return np.lib.stride_tricks.as_strided(mapped, stored.shape, steps, writeable=False)

    def close(self) -> None:
        """Close the file; another read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def safetensors_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .safetensors file, from its header.

    Raises:
        ValueError: it is not such a file, or is damaged; two tensors of one name, or that share bytes, are damage.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size - 8, _LONGEST_HEADER) else b""
    try:
        entries = json.loads(header, object_pairs_hook=_without_duplicates)
        entries.pop("__metadata__", None)
        tensors = {name: _entry(name, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors file, or its header is damaged ({error})") from None
    end = max(
        (position + count for stored in tensors.values() for position, count in stored.ranges), default=8 + length
    )
    if end != size:
        raise ValueError(f"{path} is damaged: its header describes {end:,} bytes, the file has {size:,}")
    last, reached = "", 8 + length
    for name, stored in sorted(tensors.items(), key=lambda item: item[1].ranges):
        ((position, count),) = stored.ranges
        if count and position != reached:
            found = f"{name} and {last} overlap" if position < reached else f"no tensor holds bytes before {name}"
            raise ValueError(f"{path} is damaged: {found}")
        last, reached = (name, position + count) if count else (last, reached)
    for name, (dtype, shape, ((_, count),), _) in tensors.items():
        if dtype in STORAGE and count != (needed := math.prod(shape) * STORAGE[dtype].itemsize):
            raise ValueError(f"{path} is damaged: {name} holds {count:,} bytes, its shape needs {needed:,}")
    return tensors


def check_sides(name: str, shape: Sequence[int]) -> None:
    """Refuse shapes that no array can have.

    Raises:
        ValueError: it has more than MOST_SIDES dimensions, or a side or their product is beyond 64 bits.
    """
    if len(shape) > MOST_SIDES:
        raise ValueError(f"{name} has {len(shape):,} dimensions, expected at most {MOST_SIDES}")
    if any(side > LARGEST for side in shape) or math.prod(shape) > LARGEST:
        raise ValueError(f"{name} has more numbers than 64 bits can count")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError(f"{Counter(name for name, _ in pairs).most_common(1)[0][0]} appears twice")
    return entries


def _entry(name: str, entry: Mapping[str, Any], begin: int) -> StoredTensor:
    start, stop = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if not isinstance(dtype, str):
        raise ValueError(f"{name} has the dtype {dtype!r}")
    if not all(is_whole(number, 0) for number in (start, stop, *shape)) or stop < start:
        raise ValueError(f"{name} is at bytes {start} to {stop} and has the shape {list(shape)}")
    check_sides(name, shape)
    return StoredTensor(dtype, shape, ((begin + start, stop - start),))
