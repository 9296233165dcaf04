"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["PATIENCE", "wait_until"]

PATIENCE = 120  # seconds for what must come at all; a busy machine may stand still for many of them


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for `condition()` to be true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
