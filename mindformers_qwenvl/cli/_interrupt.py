"""Ctrl-C while a network computes; and SIGTERM, with which job schedulers end a process."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

__all__ = ["Interrupts", "unwound_by_sigterm"]


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that unfinished files are removed; the exit code is 143, as usual.

    Not for code that computes in MindSpore: Python would react only after the graph has run.
    """
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupts:
    """Holds Ctrl-C back, to be checked between tokens: while it runs a graph, MindSpore would react by ending the
    process.

    Create it before importing anything that starts threads (numpy does). Threads inherit the blocked signals of the
    thread that starts them, and the signal goes to any thread that does not block it. It has the method of
    `threading.Event` that `Chat.answer` calls.
    """

    def __init__(self) -> None:
        self._seen = False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def is_set(self) -> bool:
        """Whether Ctrl-C was pressed since `clear`."""
        if signal.SIGINT in signal.sigpending():
            signal.sigwait({signal.SIGINT})
            self._seen = True
        return self._seen

    def clear(self) -> None:
        """Forget every Ctrl-C so far."""
        self.is_set()
        self._seen = False

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """In this block Ctrl-C raises KeyboardInterrupt as usual; after a graph, MindSpore's handler may be set."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
