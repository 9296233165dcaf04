"""A connection to one of the addresses that the policy allowed; every wait has a limit. Standard library only."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from mindformers_qwenvl.pictures.policy import ImagePolicy

__all__ = ["Resolver", "Wire", "addresses_of", "connect", "resolve"]

# Gives the addresses of a name, as text, for a port.
Resolver: TypeAlias = "Callable[[str, int], Sequence[str]]"


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, each once, in the system's order of preference.

    Raises:
        OSError: the name is unknown.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


def addresses_of(host: str, port: int, policy: ImagePolicy, deadline: float, resolver: Resolver) -> list[str]:
    """The addresses of `host`, at least one. `host` may be an address itself.

    Raises:
        TimeoutError: `connect_timeout` or the deadline has passed.
        OSError: the name is unknown or has no address.
    """
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    answers: SimpleQueue = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((list(resolver(host, port)), None))
        except Exception as error:
            answers.put(((), error))

    # The system's resolver takes no timeout and may try for half a minute.
    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        found, error = answers.get(timeout=_remaining(deadline, policy.connect_timeout))
    except Empty:
        raise _connect_timeout() from None
    if error is not None:
        raise error if isinstance(error, OSError) else OSError(f"its name cannot be resolved: {error}") from error
    if not found:
        raise OSError("its name has no address")
    return [str(ip_address(address)) for address in found]


def connect(
    addresses: Sequence[str], port: int, policy: ImagePolicy, deadline: float, *, tls_host: str | None = None
) -> socket.socket:
    """A connection to the first of `addresses` that accepts one. With `tls_host`, over TLS, with a certificate for it.

    Raises:
        ssl.SSLCertVerificationError: the certificate is not valid; no other address is tried then.
        TimeoutError: `connect_timeout` or the deadline has passed.
        OSError: the last address does not accept a connection.
    """
    for number, address in enumerate(addresses, 1):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_remaining(deadline, policy.connect_timeout))
            sock.connect((address, port))
            if tls_host is not None:
                sock.settimeout(_remaining(deadline, policy.connect_timeout))
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=tls_host)
            return sock
        except OSError as error:
            sock.close()
            if number == len(addresses) or isinstance(error, ssl.SSLCertVerificationError):
                if isinstance(error, TimeoutError):
                    raise _connect_timeout() from error
                raise
        except BaseException:
            sock.close()
            raise
    raise AssertionError("no addresses")


def _connect_timeout() -> TimeoutError:
    error = TimeoutError()
    error.rule = "connect_timeout"
    return error


def _remaining(deadline: float, limit: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return min(remaining, limit)


class Wire:
    """A socket as http.client needs it, whose every wait ends at the deadline.

    The socket's own timeout is not enough: a server that sends a byte now and then, even within the headers, would
    never exceed it.
    """

    def __init__(self, sock: socket.socket, timeout: float, deadline: float) -> None:
        self.sock, self.timeout, self.deadline = sock, timeout, deadline

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(_remaining(self.deadline, self.timeout))
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """http.client calls this after the headers; the socket is closed by whoever opened it."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.wire.sock.settimeout(_remaining(self.wire.deadline, self.wire.timeout))
        return self.wire.sock.recv_into(buffer)
