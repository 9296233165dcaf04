"""A relay before a server on this machine: it can be gone."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Listens on `port` of loopback and hands on to `target`, another port."""

    def __init__(self, target: int):
        self.target = target
        self.port = 0
        self._open: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self.restore()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restore(self) -> None:
        """Be there, at the same port as before."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """Be gone: break all connections off and refuse new ones."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listening.close()
            self._listening = None
        for one in list(self._open):
            _end(one)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open |= {client, server}
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            _end(one)
            self._open.discard(one)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextlib.contextmanager
def relay(target: int) -> Iterator[Relay]:
    """A `Relay` to the port `target`, cut at the end."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.cut()
