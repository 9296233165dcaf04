"""Ctrl-C in commands that import MindSpore; and SIGTERM, which job schedulers send to end a process."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["Interrupts", "held_back", "unwound_by_sigterm"]

GRACE = 3.0  # seconds for Python to react; after that the process is ended: it is probably computing in C++
POLLED = 0.2  # seconds

SIGINT = {signal.SIGINT}


@contextlib.contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that unfinished files are removed; the exit code is 143, as usual.

    Not for code that computes in MindSpore: Python would react only after the graph has run.
    """
    if not _is_main_thread():  # other threads cannot set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """In this block Ctrl-C waits, and threads that are started here never get it: they inherit the blocked signals of
    the thread that starts them. (numpy starts some, and a signal goes to any thread that does not block it.)"""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGINT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """Takes Ctrl-C away from MindSpore, which would end the process without a word: a separate thread waits for it.

    Ctrl-C then ends the block by a KeyboardInterrupt. If that has no effect within GRACE seconds, because C++ is
    computing or some code has caught it, the process ends, with the usual exit code 130. In a block `noted`, Ctrl-C
    only sets `is_set`, the method of `threading.Event` that `Chat.answer` calls.

    Use it with `with`, inside `held_back`. Where Ctrl-C is ignored, as in a background job, it stays ignored.

    last_words: called before the process is ended after GRACE seconds, to say that it was interrupted and to clean up.
    """

    def __init__(self) -> None:
        self.last_words: Callable[[], None] = lambda: print("interrupted", file=sys.stderr, flush=True)
        self._seen = False
        self._only_noted = False
        self._over = threading.Event()

    def __enter__(self) -> Interrupts:
        if _is_main_thread() and callable(signal.getsignal(signal.SIGINT)):
            threading.Thread(target=self._watch, name="ctrl-c", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            if signal.sigtimedwait(SIGINT, POLLED) is None:
                continue
            only_noted = self._only_noted  # read before `_seen` is set, as the block may end then
            self._seen = True
            if not only_noted:
                _thread.interrupt_main()
                if not self._over.wait(GRACE):
                    self.last_words()
                    os._exit(130)

    def is_set(self) -> bool:
        """Whether Ctrl-C was pressed since `clear`."""
        return self._seen

    def clear(self) -> None:
        """Forget every Ctrl-C so far."""
        self._seen = False

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """In this block Ctrl-C is only noted."""
        self._only_noted = True
        try:
            yield
        finally:
            self._only_noted = False

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """In this block Ctrl-C raises KeyboardInterrupt at once, as usual: for `input`. The handler is set again, since
        MindSpore may have set its own when it ran a graph."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGINT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGINT)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
