"""Ports of this machine for servers of tests."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path

__all__ = ["free_port"]

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(count: int = 1) -> int:
    """A port of 127.0.0.1 that nobody has, nor the `count - 1` after it.

    It is none of those that the system gives to connections and to servers that take any port: another process might
    have got it by the time it is used, and who connects to it before somebody listens could reach itself.
    """
    system = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32_768
    highest = system if system > LOWEST + 1000 else 65_536
    while True:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            first = LOWEST + secrets.randbelow(highest - count - LOWEST)
            for number in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return first
