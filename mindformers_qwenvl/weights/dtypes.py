"""Number formats of weights and exact casts between them, in numpy alone.

numpy has no bfloat16: a BF16 array is carried as the uint16 of its bits. Dtypes go by their safetensors codes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["CODES", "ITEM_BYTES", "STORAGE", "cast", "widen"]

CODES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
STORAGE = {"F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4")}
ITEM_BYTES = {code: storage.itemsize for code, storage in STORAGE.items()}

_BLOCK = 1 << 18  # numbers cast at a time: small enough that the intermediate arrays stay in the processor's cache


def widen(array: np.ndarray, source: str) -> np.ndarray:
    """The values of `array` (dtype code `source`) as float32, exactly."""
    if source == "BF16":
        return np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
    return array.astype(np.float32, copy=False)


def _to_bf16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    # Round half to even on the 16 bits that go. A carry out of the mantissa gives the next exponent, or infinity.
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():  # rounding could turn a NaN into an infinity or wrap around: truncate it, and keep it quiet
        result[nan] = (bits[nan] >> 16).astype(np.uint16) | 0x0040
    return result


def _to_f16(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float16)


_NARROW = {"F32": lambda values: values, "BF16": _to_bf16, "F16": _to_f16}
_INFINITY = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}


@cache
def _table(source: str, target: str) -> np.ndarray:
    """Every value of one 16-bit format in another: looking them up is faster than going through float32."""
    values = np.arange(1 << 16, dtype=np.uint16).view(STORAGE[source])
    return _NARROW[target](widen(values, source))


def _infinities(array: np.ndarray, code: str) -> int:
    bits = array.view(np.uint32 if code == "F32" else np.uint16)
    without_sign = bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    return int(np.count_nonzero(without_sign == _INFINITY[code]))


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
    if array.size <= _BLOCK:
        return _cast_block(np.ascontiguousarray(array), source, target)
    result = np.empty(array.shape, STORAGE[target])
    overflow = 0
    for start in range(0, array.size, _BLOCK):
        block = np.ascontiguousarray(array[start : start + _BLOCK])
        result[start : start + _BLOCK], more = _cast_block(block, source, target)
        overflow += more
    return result, overflow


def _cast_block(block: np.ndarray, source: str, target: str) -> tuple[np.ndarray, int]:
    if ITEM_BYTES[source] == ITEM_BYTES[target]:
        result = np.take(_table(source, target), block.view(np.uint16), mode="clip")
    else:
        result = _NARROW[target](widen(block, source))
    if ITEM_BYTES[target] == 2 and (infinite := _infinities(result, target)):
        return result, infinite - _infinities(block, source)
    return result, 0
