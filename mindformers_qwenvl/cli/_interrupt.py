"""Ctrl-C while a network computes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["Interrupts"]


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
