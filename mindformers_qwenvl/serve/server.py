"""Sockets, signals and graceful shutdown of the server (uvicorn)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Signals", "bind", "configured", "serve"]

logger = logging.getLogger(__name__)

HEADER_SECONDS = 20  # for the head of a request to arrive
KEEP_ALIVE = 30  # seconds that a connection may stay open without a request
SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Signals:
    """SIGTERM and Ctrl-C. The first signal calls `on_stop`; a second one, or one that comes before `on_stop` is set,
    ends the process at once.

    A thread waits for them, because MindSpore would end the process on Ctrl-C while it runs a graph. A thread that was
    started earlier may still get SIGTERM, so there is a handler as well.
    """

    def __init__(self) -> None:
        self.on_stop: Callable[[], None] | None = None
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: self._came(number))
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def _wait(self) -> None:
        while True:
            self._came(signal.sigwait(SIGNALS))

    def _came(self, number: int) -> None:
        stop, self.on_stop = self.on_stop, None
        if stop is None:
            os._exit(128 + number)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("stopping: answers that are being written may finish; a second signal stops at once\n")
        stop()


class _Server(uvicorn.Server):
    """uvicorn's, without its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """HTTP/1.1, with a limit on the time that the head of a request takes to arrive. (uvicorn has no limit before the
    first request: a connection that sends nothing would stay open for ever.)"""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._waiting = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address is not available; the message names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    listening.set_inheritable(False)
    return listening


def configured(app: Any, grace: float) -> uvicorn.Config:
    """uvicorn's settings. grace: seconds that running answers have to finish when the server stops."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(grace) + 5),
        backlog=256,
    )


def serve(app: Any, engine: Any, listening: socket.socket, signals: Signals | None, grace: float) -> None:
    """Answer requests until the first signal; then finish running ones for up to `grace` seconds."""
    server = _Server(configured(app, grace))

    def stop() -> None:
        engine.close(grace)
        server.should_exit = True

    if signals is not None:
        signals.on_stop = stop
    engine.on_broken = lambda: setattr(server, "should_exit", True)  # a supervisor can then restart the process
    if engine.broken:  # already
        server.should_exit = True
    server.run(sockets=[listening])
    engine.close(0)
