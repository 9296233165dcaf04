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
    """SIGTERM ends the block as Ctrl-C does, so that unfinished files go away; the exit code is 143 as ever.

    Not for what computes in MindSpore: Python would answer only when the graph has run.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupts:
    """Holds Ctrl-C back, to be looked for between tokens: MindSpore, while it runs a graph, would answer it by ending
    the process.

    Make it before anything that starts threads is imported (numpy does): they take over what their maker holds back,
    and the signal goes to any thread that does not. It has the method of `threading.Event` that `Chat.answer` asks for.
    """

    def __init__(self) -> None:
        self._seen = False
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def is_set(self) -> bool:
        """Whether Ctrl-C came since `clear`."""
        if signal.SIGINT in signal.sigpending():
            signal.sigwait({signal.SIGINT})
            self._seen = True
        return self._seen

    def clear(self) -> None:
        """Forget it, and what has come since."""
        self.is_set()
        self._seen = False

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Here it raises KeyboardInterrupt, as usual (MindSpore's handler may still be there after a graph)."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
