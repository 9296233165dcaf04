"""GPTQ matrices of 4 bits straight to 16-bit floats: a byte, which holds two numbers, is looked up as a pair.

numpy takes three times as long to cast the numbers to float16 as to unpack them to float32. A matrix has some thousands
of different scales, each of which gives 16 numbers: they are cast once, into a table of all their pairs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mindformers_qwenvl.weights.convert.dtypes import cast

if TYPE_CHECKING:
    from mindformers_qwenvl.weights.formats.gptq_packed import Packed

__all__ = ["Pairs", "pairs_of", "unpack_pairs"]

LEVELS = 16  # values of a 4-bit number
SCALES = 1 << 14  # the most different scales (with their zeros) in a table, which is then 16 MB


@dataclass(frozen=True)
class Pairs:
    """The numbers of a matrix, rounded to 16 bits.

    Attributes:
        table: uint32 [scales * 256]; for each scale the two numbers of each byte, the one of the lower bits first.
        place: int32 [out, groups], where in `table` the scale of a group begins.
    """

    table: np.ndarray
    place: np.ndarray


def pairs_of(packed: Packed, code: str) -> Pairs | None:
    """The table of a matrix for the dtype `code`, F16 or BF16.

    None if a table cannot be used: not 4 bits, groups out of order or of unequal length, too many scales, or numbers
    that are not finite in that dtype, which have to be counted one by one.
    """
    columns = packed.words.shape[0] * 8
    if packed.bits != 4 or packed.group is not None or columns % packed.length or packed.length % 2:
        return None
    halves = packed.scales.astype(np.float16)
    if sys.byteorder != "little" or not np.array_equal(halves, packed.scales):
        return None
    # A key for each pair of scale and zero, then numbers for the keys that occur, in their order.
    keys = halves.view(np.uint16).astype(np.int32) * LEVELS + np.asarray(packed.zeros).astype(np.int32)
    known = np.zeros((1 << 16) * LEVELS, bool)
    known[keys] = True
    used = np.flatnonzero(known)
    if len(used) > SCALES:
        return None
    place = (np.cumsum(known, dtype=np.int32) - 1)[keys] * 256
    scales = (used // LEVELS).astype(np.uint16).view(np.float16).astype(np.float32)
    zeros = (used % LEVELS).astype(np.float32)
    with np.errstate(invalid="ignore"):
        numbers = (np.arange(LEVELS, dtype=np.float32) - zeros[:, None]) * scales[:, None]
    if not np.isfinite(numbers).all():
        return None
    rounded, overflow = cast(numbers.reshape(-1), "F32", code)
    if overflow:
        return None
    low = rounded.view(np.uint16).reshape(-1, LEVELS).astype(np.uint32)
    return Pairs((low[:, None, :] | low[:, :, None] << 16).reshape(-1), place)


def unpack_pairs(pairs: Pairs, packed: Packed, row: int, stop: int, into: np.ndarray) -> None:
    """Rows [row, stop) of the matrix into `into`, 16-bit floats [stop - row, in], contiguous."""
    words = np.ascontiguousarray(packed.words[:, row:stop].T)  # the words of an output, one after another
    octets = words.view(np.uint8).reshape(-1, packed.length // 2)  # one row for each group
    index = np.add(octets, pairs.place[row:stop].reshape(-1, 1), dtype=np.intp)
    np.take(pairs.table, index, out=into.view(np.uint32).reshape(index.shape), mode="clip")
