"""Time that grows with an input as the input does, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["assert_linear"]

PARTS = 8


def assert_linear(work: Callable[[int], object], count: int, seconds: float) -> None:
    """`work(count)` takes less than `seconds` of the processor's time; or, where the machine is slow, no more than
    twice the share that an eighth of it has. A quadratic form takes 64 times an eighth's time, a linear one 8 times."""
    few, many = _took(work, count // PARTS), _took(work, count)
    assert many < seconds or many < 2 * PARTS * few, f"{few:.2f} s for {count // PARTS:,}, {many:.2f} s for {count:,}"


def _took(work: Callable[[int], object], count: int) -> float:
    started = time.process_time()
    work(count)
    return time.process_time() - started
