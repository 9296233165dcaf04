"""PyTorch's files written without PyTorch, for tests and benchmarks: the zip form, byte for byte as small as it can be.

`torch.load` reads them; numbers may be left out as a hole in the file, so that a shard of 2 GB costs nothing.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["TorchTensor", "state_pickle", "write_torch"]

_STORAGES = {"F16": (b"HalfStorage", 2), "BF16": (b"BFloat16Storage", 2), "F32": (b"FloatStorage", 4)}
_EMPTY_DICT = b"ccollections\nOrderedDict\n)R"


class TorchTensor(NamedTuple):
    """dtype code, shape, and the numbers in the storage type of the dtype; None for zeros that take no disk."""

    dtype: str
    shape: tuple[int, ...]
    numbers: np.ndarray | None = None


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _numbers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_number(number) for number in numbers) + b"t"


def state_pickle(tensors: dict[str, TorchTensor]) -> bytes:
    """The pickle of a state dict whose storages are numbered in order."""
    parts = [b"\x80\x02", _EMPTY_DICT, b"("]
    for key, (name, (dtype, shape, _)) in enumerate(tensors.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", b"("]
        parts += [b"(", _text("storage"), b"ctorch\n", _STORAGES[dtype][0], b"\n", _text(str(key)), _text("cpu")]
        parts += [_number(math.prod(shape)), b"tQ", _number(0), _numbers(shape), _numbers(strides), b"\x89"]
        parts += [_EMPTY_DICT, b"tR"]
    return b"".join([*parts, b"u."])


def write_torch(path: Path, tensors: dict[str, TorchTensor], data_pickle: bytes | None = None) -> None:
    """Write `tensors` as `torch.save` would; `data_pickle` replaces the pickle that describes them."""
    described = state_pickle(tensors) if data_pickle is None else data_pickle
    entries: list[tuple[str, bytes | None, int]] = [("model/data.pkl", described, len(described))]
    for key, (dtype, shape, numbers) in enumerate(tensors.values()):
        size = math.prod(shape) * _STORAGES[dtype][1]
        entries.append((f"model/data/{key}", None if numbers is None else numbers.tobytes(), size))
    entries.append(("model/version", b"3\n", 2))
    central = []
    with path.open("wb") as file:
        for name, content, size in entries:
            begin = file.tell()
            # The sum of a hole is left out: nobody reads gigabytes of zeros for it.
            fields = struct.pack("<HHHHHIII", 20, 0, 0, 0, 33, zlib.crc32(content or b""), size, size)
            file.write(b"PK\x03\x04" + fields + struct.pack("<HH", len(name), 0) + name.encode())
            if content is None:
                file.seek(size, os.SEEK_CUR)
            else:
                file.write(content)
            ends = struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, begin)
            central.append(b"PK\x01\x02" + struct.pack("<H", 20) + fields + ends + name.encode())
        begin, whole = file.tell(), b"".join(central)
        counts = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(whole), begin, 0)
        file.write(whole + b"PK\x05\x06" + counts)
