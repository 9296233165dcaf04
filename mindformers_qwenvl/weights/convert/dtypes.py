"""Number formats of weights and exact casts between them, in numpy alone.

numpy has no bfloat16: a BF16 array is carried as the uint16 of its bits. Dtypes are named by their safetensors codes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["BLOCK", "CODES", "ITEM_BYTES", "STORAGE", "cast", "cast_into", "new_scratch", "not_finite", "widen"]

CODES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
STORAGE = {"F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4")}
ITEM_BYTES = {code: storage.itemsize for code, storage in STORAGE.items()}

BLOCK = 1 << 17  # numbers cast at a time: few enough for the cache, many enough that threads seldom wait

_NO_SIGN = np.uint16(0x7FFF)
_INFINITY = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}


def widen(array: np.ndarray, source: str) -> np.ndarray:
    """The values of `array` (dtype code `source`) as float32, exactly."""
    if source == "BF16":
        return np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
    return array.astype(np.float32, copy=False)


def cast(array: np.ndarray, source: str, target: str) -> tuple[np.ndarray, int]:
    """Cast a one-dimensional array, rounding to nearest, ties to even.

    Args:
        array: [n] in the storage type of `source`.
        source, target: dtype codes, keys of `STORAGE`.

    Returns:
        The array [n] in the storage type of `target`, and how many finite values became infinite because the target
        cannot hold them (FP16 ends at 65,504).
    """
    if source == target:
        return array, 0
    result = np.empty(array.shape, STORAGE[target])
    return result, cast_into(array, source, result, target, new_scratch())


def new_scratch() -> np.ndarray:
    """Working memory for `cast_into`."""
    return np.empty((2, BLOCK), np.uint32)


def cast_into(array: np.ndarray, source: str, result: np.ndarray, target: str, scratch: np.ndarray) -> int:
    """As `cast`, into the contiguous `result` [n]; no other array of that size is allocated.

    Args:
        scratch: from `new_scratch`, one for each thread.

    Returns:
        How many values overflowed.
    """
    overflow = 0
    many_small = (source, target) == ("F32", "F16") and _many_small(array)
    # Where numpy takes one call, it gets the whole array: threads wait for each other between calls.
    size = BLOCK if many_small or (source, target) == ("F32", "BF16") else max(1, array.size)
    for start in range(0, array.size, size):
        block = np.ascontiguousarray(array[start : start + size])
        into = result[start : start + size]
        first, second = scratch[:, : block.size]
        if source == target:
            np.copyto(into, block)
        elif ITEM_BYTES[source] == ITEM_BYTES[target]:
            np.take(_table(source, target), block.view(np.uint16), mode="clip", out=into)
        elif source == "BF16":
            np.copyto(into.view(np.uint32), block)
            np.left_shift(into.view(np.uint32), 16, out=into.view(np.uint32))
        elif source == "F16":
            np.copyto(into, block)
        elif target == "BF16":
            _to_bf16(block, into, first)
        elif many_small:
            overflow += _to_f16(block, into, first, second)
            continue
        else:
            with np.errstate(over="ignore"):
                np.copyto(into, block, casting="same_kind")
        if source != target and ITEM_BYTES[target] == 2:
            overflow += _overflow(block, source, into, target)
    return overflow


def not_finite(array: np.ndarray, code: str) -> int:
    """How many numbers of a contiguous array (dtype code `code`) are NaN or infinite."""
    bits = array.view(np.uint32 if code == "F32" else np.uint16)
    no_sign = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    # The largest of either sign, see `_overflow`: two passes that allocate nothing, enough if all are finite.
    signed = bits.view(np.int32 if code == "F32" else np.int16)
    if not bits.size or (signed.max() < _INFINITY[code] and bits.max() & no_sign < _INFINITY[code]):
        return 0
    return int(np.count_nonzero(bits & no_sign >= _INFINITY[code]))


def _overflow(block: np.ndarray, source: str, result: np.ndarray, target: str) -> int:
    # The largest of either sign: as signed integers, positive floats come last; as unsigned ones, negative floats.
    if result.view(np.int16).max() < _INFINITY[target] and result.view(np.uint16).max() & _NO_SIGN < _INFINITY[target]:
        return 0
    magnitude = result.view(np.uint16) & _NO_SIGN
    return int(np.count_nonzero(magnitude == _INFINITY[target])) - _infinities(block, source)


def _to_bf16(values: np.ndarray, result: np.ndarray, rounded: np.ndarray) -> None:
    bits = values.view(np.uint32)
    # Round half to even on the 16 bits to drop. A carry out of the mantissa gives the next exponent, or infinity.
    np.right_shift(bits, 16, out=rounded)
    np.bitwise_and(rounded, 1, out=rounded)
    np.add(rounded, 0x7FFF, out=rounded)
    np.add(rounded, bits, out=rounded)
    np.copyto(result, rounded.view(np.uint16)[1::2])  # the upper halves: little-endian
    if np.isnan(values.max()):
        # Rounding could turn a NaN into an infinity or wrap around: truncate it, and keep it quiet.
        nan = np.isnan(values)
        result[nan] = (bits[nan] >> 16).astype(np.uint16) | 0x0040


def _many_small(values: np.ndarray) -> bool:
    """Whether more than one in 16 is below 2^-14, judged by a sample. numpy's own cast is 16 times slower there."""
    sample = np.abs(values[:: 1 + values.size // 1024])
    return int(np.count_nonzero(sample < 2.0**-14)) * 16 > sample.size


def _to_f16(values: np.ndarray, result: np.ndarray, sums: np.ndarray, powers: np.ndarray) -> int:
    """The same result as numpy's cast, and as fast below 2^-14, where halves are subnormal, as elsewhere; returns how
    many values overflowed.

    For |x| with exponent e, a power of two with exponent e + 13 (at least 2^-1) is added: the last bit of a float32 of
    that size is the last bit of a half with exponent e, so the addition rounds to nearest even. The sum minus the power
    is the mantissa of the half with its leading one; the power gives the exponent.
    """
    bits, half = values.view(np.uint32), result.view(np.uint16)
    np.bitwise_and(bits, 0x7FFFFFFF, out=sums)
    largest = sums.max()
    np.bitwise_and(sums, 0x7F800000, out=powers)
    np.maximum(powers, 0x38800000, out=powers)  # 2^-14: smaller halves have the same spacing
    np.add(powers, 13 << 23, out=powers)
    with np.errstate(invalid="ignore"):
        np.add(sums.view(np.float32), powers.view(np.float32), out=sums.view(np.float32))
    np.subtract(sums, powers, out=sums)
    np.right_shift(powers, 13, out=powers)
    np.add(sums, powers, out=sums)
    np.copyto(half, sums, casting="unsafe")
    np.subtract(half, np.uint16(126 << 10 & 0xFFFF), out=half)
    sign = powers.view(np.uint16)[: values.size]
    np.bitwise_and(bits.view(np.uint16)[1::2], np.uint16(0x8000), out=sign)  # the upper halves: little-endian
    np.bitwise_or(half, sign, out=half)
    if largest < 0x477FF000:  # 65,520: from here on the result is infinite; inf and NaN are above it too
        return 0
    beyond = np.flatnonzero((bits & 0x7FFFFFFF) >= 0x477FF000)
    with np.errstate(over="ignore", invalid="ignore"):
        result[beyond] = values[beyond].astype(np.float16)
    return int(np.count_nonzero(np.isfinite(values[beyond])))


@cache
def _table(source: str, target: str) -> np.ndarray:
    """Every value of one 16-bit format in another: a lookup is faster than a cast through float32."""
    return cast(widen(np.arange(1 << 16, dtype=np.uint16).view(STORAGE[source]), source), "F32", target)[0]


def _infinities(array: np.ndarray, code: str) -> int:
    bits = array.view(np.uint32 if code == "F32" else np.uint16)
    without_sign = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return int(np.count_nonzero(without_sign == _INFINITY[code]))
