"""Weight files to be written: what goes where in them. Safetensors (one file, or shards) and MindSpore's .ckpt.

Every position is known before the first number is written, so that blocks can be written in any order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mindformers_qwenvl.weights.convert.dtypes import ITEM_BYTES
from mindformers_qwenvl.weights.formats.ckpt_file import SLICE, value_header

__all__ = ["Entry", "Layout", "ckpt_layout", "safetensors_layout", "shard"]


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: name, dtype code, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Layout:
    """A file: the bytes around the numbers, by position; where each tensor's numbers go; its size."""

    headers: tuple[tuple[int, bytes], ...]
    ranges: dict[str, tuple[tuple[int, int], ...]]
    size: int


def safetensors_layout(entries: Sequence[Entry], form: str) -> Layout:
    """A .safetensors file. `form` is its metadata field `format`: `pt` or `ms`."""
    header: dict[str, object] = {"__metadata__": {"format": form}}
    offset = 0
    for entry in entries:
        span = [offset, offset + entry.nbytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": span}
        offset = span[1]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # in this format the numbers start at a multiple of eight
    first = 8 + len(encoded)
    ranges, position = {}, first
    for entry in entries:
        ranges[entry.name] = ((position, entry.nbytes),)
        position += entry.nbytes
    return Layout(((0, len(encoded).to_bytes(8, "little") + encoded),), ranges, position)


def ckpt_layout(entries: Sequence[Entry]) -> Layout:
    """A MindSpore .ckpt file."""
    headers, ranges, position = [], {}, 0
    for entry in entries:
        slices = []
        for start in range(0, max(entry.nbytes, 1), SLICE):
            length = min(SLICE, entry.nbytes - start)
            header = value_header(entry.name, entry.dtype, entry.shape, length)
            headers.append((position, header))
            slices.append((position + len(header), length))
            position += len(header) + length
        ranges[entry.name] = tuple(slices)
    return Layout(tuple(headers), ranges, position)


def shard(entries: Sequence[Entry], max_shard_size: int) -> dict[str, list[Entry]]:
    """Entries by file name: `model-00001-of-0000N.safetensors`, or `model.safetensors` where one is enough."""
    groups: list[list[Entry]] = []
    filled = max_shard_size
    for entry in entries:
        if filled + entry.nbytes > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}
