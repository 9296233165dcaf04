"""A GPTQ matrix in memory, packed, and its numbers as float32. numpy alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["Packed", "dequantise", "unpacked"]


@dataclass(frozen=True)
class Packed:
    """A quantised matrix as it is stored, in memory.

    Attributes:
        words: uint32 [in * bits / 32, out].
        zeros: float32 [out, groups], or a single number if all are equal.
        scales: float32 [out, groups].
        group: int32 [in], or None: groups of equal length, in order, the last one perhaps shorter.
        length: inputs in a group.
    """

    words: np.ndarray
    zeros: np.ndarray | np.uint8
    scales: np.ndarray
    bits: int
    group: np.ndarray | None
    length: int


def dequantise(packed: Packed, row: int, stop: int, into: np.ndarray) -> None:
    """Rows [row, stop) of the matrix into `into`, float32 [stop - row, in], contiguous."""
    words = np.ascontiguousarray(packed.words[:, row:stop].T)  # the words of an output, one after another
    one_zero = not isinstance(packed.zeros, np.ndarray)
    _unpack_into(words, packed.bits, int(packed.zeros) if one_zero else 0, into)
    scales = packed.scales[row:stop]
    if packed.group is not None:
        if not one_zero:
            into -= np.take(packed.zeros[row:stop], packed.group, axis=1)
        into *= np.take(scales, packed.group, axis=1)
        return
    whole = into.shape[1] // packed.length  # the last group may be shorter
    pieces = [(into[:, : whole * packed.length].reshape(len(into), whole, packed.length), slice(0, whole))]
    pieces.append((into[:, None, whole * packed.length :], slice(whole, None)))
    for piece, groups in pieces:
        if piece.size:
            if not one_zero:
                piece -= packed.zeros[row:stop, groups, None]
            with np.errstate(invalid="ignore"):  # NaN and infinity are counted when they are written
                piece *= scales[:, groups, None]


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """uint32 [n, m] to the numbers in it, uint8 [n, m * 32 / bits], from the lowest bits of the first word on."""
    octets = np.ascontiguousarray(words, "<u4").view(np.uint8)
    if bits == 8:
        return octets
    if bits == 3:  # eight numbers in three bytes
        low, middle, high = (octets[:, place::3].astype(np.uint32) for place in range(3))
        whole = low | middle << 8 | high << 16
        return (whole[:, :, None] >> np.arange(0, 24, 3, dtype=np.uint32) & 7).astype(np.uint8).reshape(len(words), -1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (octets[:, :, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(len(words), -1)


def _unpack_into(words: np.ndarray, bits: int, zero: int, into: np.ndarray) -> None:
    """The numbers in `words`, minus `zero`, as float32."""
    if bits == 3 or sys.byteorder != "little":
        np.subtract(unpacked(words, bits), np.float32(zero), out=into)
        return
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        np.subtract(octets, np.float32(zero), out=into)
        return
    table = _table(bits, zero)  # a byte is looked up as a whole: one pass, whatever is in it
    np.take(table, octets, out=into.view(table.dtype), mode="clip")


@cache
def _table(bits: int, zero: int) -> np.ndarray:
    """The numbers in each byte minus `zero`, float32, as one element: two of 4 bits, or four of 2."""
    numbers = unpacked(np.arange(256, dtype="<u4").reshape(-1, 1), bits)[:, : 8 // bits].astype(np.float32) - zero
    return np.ascontiguousarray(numbers).view(np.float64 if bits == 4 else np.complex128).reshape(-1)
