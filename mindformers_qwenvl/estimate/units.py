"""Bytes of each number type, and sizes of memory as people write them."""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.checks import byte_count
from mindformers_qwenvl.recipes.section import SettingsError

__all__ = ["DTYPE_BYTES", "GB", "memory_size"]

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GB = 1024**3  # as in MindSpore's max_device_memory and the data sheets of the cards
SMALLEST_MEMORY = 1 << 20  # bytes; no card has less


def memory_size(name: str, text: Any) -> int:
    """`64GB`, `57.5 GB`, `800MB` -> bytes; units are powers of 1024.

    Raises:
        SettingsError: it is not a size, or is so small that its unit must have been forgotten.
    """
    try:
        size = byte_count(name, text, unit=1024)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if size < SMALLEST_MEMORY:
        raise SettingsError(f"{name} is {size:,} bytes; did you mean {str(text).strip()}GB?")
    return size
