"""The processes of one server under msrun: which one this is, how they find each other, and how they stay in touch.

Rank 0 serves; the others run the same steps, see `shared_steps`. Rank 0 announces each step over a TCP connection to
each rank: a MindSpore collective would time out while there are no requests. When a rank is gone, the server ends; when
rank 0 is gone, the others end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_qwenvl.files import cache_folder, private_folder, read_bytes, replacing
from mindformers_qwenvl.serve.channel import Channel, admit, enter

__all__ = ["Place", "Rank0", "RankGone", "Ranks", "end_now", "gather", "gone_words", "join"]

LEAST_KEY, MOST_KEY = 16, 4096  # bytes
AGAIN = 0.2  # seconds between two attempts to reach rank 0
END = 10.0  # seconds that a rank's last step may still take after rank 0 has told it to end


class RankGone(ConnectionError):
    """Another process of this server has ended, or cannot be reached any more."""


@dataclass(frozen=True)
class Place:
    """This process among those that msrun has started.

    rank: None for msrun's scheduler, which runs the command as well. size: how many ranks. host, port: where the
    scheduler listens, on the machine of rank 0. patience: seconds to wait for all ranks to connect.
    """

    rank: int | None
    size: int
    host: str
    port: int
    patience: float

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """From msrun's variables; None if this process is alone.

        Raises:
            ValueError: msrun has not told it its rank.
        """
        role, size = environment.get("MS_ROLE"), int(environment.get("MS_WORKER_NUM", "1"))
        if role not in ("MS_WORKER", "MS_SCHED") or size < 2:
            return None
        rank = environment.get("RANK_ID", "")
        if role == "MS_WORKER" and not rank.isdigit():
            raise ValueError("msrun has not set RANK_ID for this process: give msrun --node_rank on each machine")
        return cls(
            None if role == "MS_SCHED" else int(rank),
            size,
            environment.get("MS_SCHED_HOST", "127.0.0.1"),
            int(environment.get("MS_SCHED_PORT", "8118")),
            float(environment.get("MS_TOPO_TIMEOUT", "600")),
        )

    @property
    def on_one_machine(self) -> bool:
        """Whether the job cannot span machines, because its scheduler can only be reached from its own machine."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    def address(self, port: int | None) -> tuple[str, int]:
        """Where rank 0 waits for the others. port: that of --ranks-port; None: the one after the scheduler's."""
        return self.host, port or self.port + 1


class Ranks:
    """The other ranks, as rank 0 sees them.

    Args:
        channels: the connections to ranks 1, 2, ...
        on_gone: called once, in another thread, with the number of the first rank that is gone; may be replaced.
    """

    def __init__(self, channels: Sequence[Channel], on_gone: Callable[[int], None]):
        self._channels = list(channels)
        self._heard: list[queue.SimpleQueue[dict[str, Any] | None]] = [queue.SimpleQueue() for _ in channels]
        self._ended = [threading.Event() for _ in channels]
        self._lock = threading.Lock()
        self._over = False
        self.gone: int | None = None  # the first one that was lost
        self.on_gone = on_gone
        for index in range(len(self._channels)):
            threading.Thread(target=self._listen, args=(index,), name=f"rank-{index + 1}", daemon=True).start()

    @property
    def size(self) -> int:
        """How many ranks there are, including this one."""
        return len(self._channels) + 1

    def tell(self, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Send a message to all of them; each will answer it.

        Raises:
            RankGone: one of them is gone.
        """
        with self._lock:
            for rank, channel in enumerate(self._channels, 1):
                try:
                    channel.send(message, arrays)
                except OSError as error:
                    raise RankGone(gone_words(rank)) from error

    def hear(self) -> list[dict[str, Any]]:
        """Wait for all of them to answer.

        Raises:
            RankGone: one of them is gone.
            RuntimeError: one of them could not do what it was told.
        """
        answers = []
        for rank, heard in enumerate(self._heard, 1):
            answer = heard.get()
            if answer is None:
                heard.put(None)
                raise RankGone(gone_words(rank))
            answers.append(answer)
        for rank, answer in enumerate(answers, 1):
            if "failed" in answer:
                raise RuntimeError(f"rank {rank} failed: {answer['failed']}")
        return answers

    def end(self) -> None:
        """Tell all of them to end, and wait up to END seconds until they have. This does not wait for a step that still
        runs here. A second call does nothing."""
        if self._over:
            return
        self._over = True
        if self._lock.acquire(timeout=1):
            with contextlib.ExitStack() as held:
                held.callback(self._lock.release)
                for channel in self._channels:
                    with contextlib.suppress(OSError):
                        channel.send({"call": "end"})
        until = time.monotonic() + END
        for ended in self._ended:
            ended.wait(max(until - time.monotonic(), 0))

    def _listen(self, index: int) -> None:
        try:
            while True:
                self._heard[index].put(self._channels[index].receive()[0])
        except (OSError, ValueError):
            self._heard[index].put(None)
            self._ended[index].set()
            if not self._over and self.gone is None:
                self.gone = index + 1
                self.on_gone(index + 1)


class Rank0:
    """Rank 0, as another rank sees it. If it is gone, this process ends with exit code 1, even in mid-computation.

    Args:
        channel: the connection.
        say: called with a line for the user.
    """

    def __init__(self, channel: Channel, say: Callable[[str], None]):
        self._channel, self._say = channel, say
        self._told: queue.SimpleQueue[tuple[dict[str, Any], list[np.ndarray]]] = queue.SimpleQueue()
        self._done = threading.Event()
        threading.Thread(target=self._listen, name="rank-0", daemon=True).start()

    def next(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Wait for the next message of rank 0; the last one is {"call": "end"}."""
        return self._told.get()

    def answer(self, message: dict[str, Any]) -> None:
        """Answer a message."""
        with contextlib.suppress(OSError):  # the thread that listens notices
            self._channel.send(message)

    def leave(self) -> None:
        """Close the connection, as rank 0 expects."""
        self._done.set()
        self._channel.close()

    def _listen(self) -> None:
        message: dict[str, Any] = {}
        try:
            while message.get("call") != "end":
                message, arrays = self._channel.receive()
                self._told.put((message, arrays))
        except (OSError, ValueError) as error:
            if not self._done.is_set():
                self._say(f"rank 0 is gone ({error}): this process ends, too")
                end_now(1)
        if not self._done.wait(END):  # still inside a graph, which waits for ranks that have ended
            end_now(0)


def gather(place: Place, port: int | None, key_file: Path | None, on_gone: Callable[[int], None]) -> Ranks:
    """On rank 0: wait until all other ranks have connected.

    Args:
        port: that of `--ranks-port`.
        key_file: that of `--ranks-key-file`; needed if the job spans machines. On one machine, a new key is made and
            passed on in a file that only this user can read.
        on_gone: see `Ranks`.

    Raises:
        OSError: the port is not available, or not all ranks have connected in time.
        ValueError: there is no key or a bad one, or a rank has connected that is not expected.
    """
    address = place.address(port)
    with contextlib.ExitStack() as held:
        listening = held.enter_context(_bound(address))
        if key_file is None:
            file = _key_of_this_machine(place, address[1])
            key = secrets.token_hex(32).encode()
            with replacing(file, permissions=0o600) as opened:
                opened.write(key)
            held.callback(file.unlink, missing_ok=True)
        else:
            key = _read_key(key_file)
        listening.listen(place.size)
        channels: dict[int, Channel] = {}
        until = time.monotonic() + place.patience
        while len(channels) < place.size - 1:
            listening.settimeout(max(until - time.monotonic(), 0.01))
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                missing = [str(rank) for rank in range(1, place.size) if rank not in channels]
                raise TimeoutError(
                    f"rank {', '.join(missing)} of {place.size} did not connect to {address[0]} port {address[1]} "
                    f"within {place.patience:g} s (msrun's --cluster_time_out): see the log of that rank"
                ) from None
            try:
                channel, rank = admit(connection, key)
            except OSError:  # a stranger, or one that is gone
                connection.close()
                continue
            if not 0 < rank < place.size or rank in channels:
                channel.close()
                raise ValueError(f"rank {rank} connected twice or is not expected: does another server use {address}?")
            channels[rank] = channel
    return Ranks([channels[rank] for rank in range(1, place.size)], on_gone)


def join(place: Place, port: int | None, key_file: Path | None, say: Callable[[str], None]) -> Rank0:
    """On the other ranks: connect to rank 0. Arguments as for `gather`.

    Raises:
        OSError: it cannot be reached in time, or has a different key.
        ValueError: there is no key, or a bad one.
    """
    address = place.address(port)
    until, last = time.monotonic() + place.patience, None
    while time.monotonic() < until:
        try:
            key = _read_key(key_file) if key_file else read_bytes(_key_of_this_machine(place, address[1]), MOST_KEY)
            connection = socket.create_connection(address, 5)
            try:
                return Rank0(enter(connection, key, place.rank), say)
            except BaseException:
                connection.close()
                raise
        except OSError as error:  # not there yet; or the key file is still that of an earlier server
            last = error
            time.sleep(AGAIN)
    raise TimeoutError(f"rank 0 cannot be reached at {address[0]} port {address[1]}: {last}")


def _bound(address: tuple[str, int]) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise OSError(
            f"rank 0 cannot listen for the other ranks on {address[0]} port {address[1]} ({error.strerror or error}): "
            "give another --ranks-port, or run rank 0 on the machine of msrun's --master_addr"
        ) from error
    return listening


def _key_of_this_machine(place: Place, port: int) -> Path:
    if not place.on_one_machine:
        raise ValueError(
            f"msrun's --master_addr {place.host} can be reached from other machines: give all ranks the same "
            "--ranks-key-file, so that no other process can join them"
        )
    return private_folder(cache_folder() / "ranks") / f"{port}.key"


def _read_key(file: Path) -> bytes:
    key = read_bytes(file, MOST_KEY).strip()
    if len(key) < LEAST_KEY:
        raise ValueError(f"--ranks-key-file {file}: expected at least {LEAST_KEY} bytes, got {len(key)}")
    return key


def gone_words(rank: int) -> str:
    """What rank 0 says about a rank that is gone."""
    return f"rank {rank} is gone: the server ends; the log of that rank may say why"


def end_now(code: int) -> None:
    """End the process without MindSpore's own shutdown, which may wait for a rank that is gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)
