"""Messages between the processes of one server: JSON, then arrays of numbers, over TCP. Nothing is unpickled.

Before anything else is read, both sides prove that they hold the same key (HMAC over random numbers from both). What
follows is not encrypted, just like the traffic between the cards: across machines, it needs a private network.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Channel", "Refused", "admit", "enter"]

HANDSHAKE = 5.0  # seconds for the other side to prove that it has the key
NONCE = 32  # bytes
MOST = 64 << 20  # bytes of a message's JSON
NUMBERS = "fiu"  # numpy's kinds of dtypes that arrays may have
# A machine that vanishes does not close its connections: probe after QUIET seconds, then every AGAIN seconds, TIMES
# times.
QUIET, AGAIN, TIMES = 10, 5, 3


class Refused(ConnectionError):
    """The other side has a different key, or is not a process of this server."""


class Channel:
    """One connection, after both sides have proved themselves.

    One thread at a time may send, and one may receive.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", QUIET), ("TCP_KEEPINTVL", AGAIN), ("TCP_KEEPCNT", TIMES)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message that JSON can hold, and arrays of numbers.

        Raises:
            OSError: the other side is gone.
        """
        arrays = [np.asarray(array, order="C") for array in arrays]
        head = json.dumps({"message": message, "arrays": [[array.dtype.str, array.shape] for array in arrays]}).encode()
        self._connection.sendall(struct.pack(">I", len(head)) + head)
        for array in arrays:
            self._connection.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Wait for the next message.

        Raises:
            OSError: the other side is gone.
            ValueError: what came is not a message.
        """
        [size] = struct.unpack(">I", _read(self._connection, 4))
        if size > MOST:
            raise ValueError(f"got a message of {size:,} bytes, expected at most {MOST:,}")
        head = json.loads(bytes(_read(self._connection, size)))
        arrays = []
        for name, shape in head["arrays"]:
            dtype = np.dtype(name)
            if dtype.kind not in NUMBERS:
                raise ValueError(f"got an array of {dtype}, expected numbers")
            data = _read(self._connection, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
            arrays.append(np.frombuffer(data, dtype).reshape(shape))
        return head["message"], arrays

    def close(self) -> None:
        """Close the connection. A thread that waits in `receive`, at either end, gets an OSError."""
        with contextlib.suppress(OSError):  # not connected any more
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def admit(connection: socket.socket, key: bytes) -> tuple[Channel, int]:
    """Let in a process that has connected, if it has the key. Also returns the number that it gives.

    Raises:
        Refused: it does not have the key.
        OSError: it is gone, or too slow.
    """
    connection.settimeout(HANDSHAKE)
    ours = secrets.token_bytes(NONCE)
    connection.sendall(ours)
    number, theirs = bytes(_read(connection, 4)), bytes(_read(connection, NONCE))
    proof = bytes(_read(connection, NONCE))
    if not hmac.compare_digest(proof, _proof(key, b"enter", ours, theirs, number)):
        raise Refused("a process connected that does not have the key of this server")
    connection.sendall(_proof(key, b"admit", ours, theirs, number))
    return Channel(connection), struct.unpack(">I", number)[0]


def enter(connection: socket.socket, key: bytes, number: int) -> Channel:
    """Join a process that has the key, as process `number`.

    Raises:
        Refused: it does not have the key, or we do not.
        OSError: it is gone, or too slow.
    """
    connection.settimeout(HANDSHAKE)
    theirs, ours, packed = bytes(_read(connection, NONCE)), secrets.token_bytes(NONCE), struct.pack(">I", number)
    connection.sendall(packed + ours + _proof(key, b"enter", theirs, ours, packed))
    try:
        proof = bytes(_read(connection, NONCE))
    except ConnectionError:
        raise Refused("the process there has a different key") from None
    if not hmac.compare_digest(proof, _proof(key, b"admit", theirs, ours, packed)):
        raise Refused("the process there does not have the key of this server")
    return Channel(connection)


def _proof(key: bytes, side: bytes, first: bytes, second: bytes, number: bytes) -> bytes:
    return hmac.digest(key, side + first + second + number, "sha256")


def _read(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = connection.recv_into(view[done:])
        if not count:
            raise ConnectionResetError("the other side has closed the connection")
        done += count
    return data
