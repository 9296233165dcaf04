"""Ports of this machine for servers of tests."""

from __future__ import annotations

import contextlib
import socket

__all__ = ["free_port"]


def free_port(count: int = 1) -> int:
    """A port of 127.0.0.1 that nobody has, nor the `count - 1` after it."""
    while True:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError, OverflowError):
            first = 0  # any
            for number in range(count):
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first and first + number))
                first = first or probe.getsockname()[1]
            return first
