"""Mutated inputs: each reader gives a result, or an OSError or ValueError, in bounded time and memory."""

from __future__ import annotations

import mmap
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.robust.readers import Reader, readers

SLOW = 10.0  # seconds of the processor for one input
HANGS = 120.0  # seconds of the clock: a busy machine may stand still for a while
MEMORY = 2 << 30  # bytes more than the process has before
TOKENS = (
    *(
        b"<img>",
        b"</img>",
        b"<box>",
        b"(1,2)",
        b"<|im_start|>",
        b"\xcc\x81",
        b"\xff\xfe",
        b"\x00",
        b"[",
        b"{",
        b"]",
        b"}",
    ),
    *(
        b'"',
        b"\\",
        b"\n",
        b" ",
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 400,
        b"\xe2\x80\xae",
        b"&a ",
        b"*a ",
        b": ",
    ),
    *(struct.pack("<Q", 1 << 63), struct.pack("<I", 0xFFFFFFFF), b"../", b"/etc/passwd", b"id", b"\xed\xa0\x80"),
)


@dataclass
class Found:
    """What the inputs of a reader led to."""

    name: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    longest: float = 0.0  # seconds of the processor
    memory: int = 0  # bytes, the most that the process had more than before
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        cells = (self.name, f"{self.inputs:,}", f"{self.read:,}", f"{self.refused:,}", f"{self.longest:.2f}")
        return f"| {' | '.join(cells)} | {self.memory >> 20:,} | {len(self.faults)} |"


def mutate(seeds: tuple[bytes, ...], source: random.Random) -> bytes:
    """One of the seeds, changed in one to eight places."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        at = source.randrange(len(data) + 1)
        until = min(len(data), at + source.choice((1, 2, 4, 16, 64)))
        kind = source.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = source.randrange(256)
        elif kind == 2:
            data[at:until] = b""
        elif kind == 3:
            data[at:at] = source.choice(TOKENS)
        elif kind == 4:
            data[at:until] = source.choice(TOKENS)
        elif kind == 5:
            data[at:at] = data[at:until] * source.choice((2, 10, 1000))
        elif kind == 6:
            del data[at:]
        else:
            other = source.choice(seeds)
            start = source.randrange(len(other) + 1)
            data[at:until] = other[start : start + source.choice((4, 32, 256))]
    return bytes(data)


def feed(count: int, seed: int, only: str = "") -> Iterator[Found]:
    """`count` inputs, shared by all readers whose name contains `only`; what each one led to."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        chosen = [reader for reader in readers(Path(place)) if only in reader.name]
        for reader in chosen:
            yield feed_reader(reader, -(-count // len(chosen)), seed, Path(place) / "work")


STATE = "<QQQddQ"  # next input, read, refused, longest, began, memory


def feed_reader(reader: Reader, count: int, seed: int, folder: Path) -> Found:
    """`count` inputs for `reader`, in processes of their own: one that dies or hangs is a fault, and the next goes on
    behind its input."""
    found = Found(reader.name, inputs=count)
    shared = mmap.mmap(-1, struct.calcsize(STATE))
    trace = tempfile.TemporaryFile("w+")  # noqa: SIM115 - of the faults, written by the children
    while (state := struct.unpack(STATE, shared[:]))[0] < count:
        child = os.fork()
        if not child:
            _child(reader, count, seed, folder, shared, trace)
        killed = ""
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            began = struct.unpack(STATE, shared[:])[4]
            if began and time.monotonic() - began > HANGS:
                os.kill(child, signal.SIGKILL)
                killed = "hangs"
            time.sleep(0.05)
        status = os.waitpid(child, 0)[1]
        state = struct.unpack(STATE, shared[:])
        if status:
            found.faults.append(f"input {state[0]}: {killed or f'the process ended with {status}'}")
            shared[:] = struct.pack(STATE, state[0] + 1, *state[1:4], 0.0, state[5])
    _, found.read, found.refused, found.longest, _, found.memory = struct.unpack(STATE, shared[:])
    trace.seek(0)
    found.faults += [line for line in trace.read().split("\0") if line]
    return found


def _child(reader: Reader, count: int, seed: int, folder: Path, shared: mmap.mmap, trace) -> None:
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        state = list(struct.unpack(STATE, shared[:]))
        for number in range(state[0], count):
            source = random.Random(f"{seed} {reader.name} {number}")
            content = mutate(reader.seeds, source)
            with _input(folder, reader, content) as path:
                state[0], state[4] = number, time.monotonic()
                shared[:] = struct.pack(STATE, *state)
                began = time.process_time()
                try:
                    reader.read(path)
                    state[1] += 1
                except (OSError, ValueError):
                    state[2] += 1
                except BaseException:
                    trace.write(f"input {number}: {traceback.format_exc(limit=-4)}\0")
                    trace.flush()
                took = time.process_time() - began
                if took > SLOW:
                    trace.write(f"input {number}: {took:.1f} s\0")
                    trace.flush()
                state[3] = max(state[3], took)
                state[5] = max(state[5], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before)
        state[0], state[4] = count, 0.0
        shared[:] = struct.pack(STATE, *state)
        code = 0
    finally:
        os._exit(code)


@contextmanager
def _input(folder: Path, reader: Reader, content: bytes) -> Iterator[Path]:
    """The content as a file, whose name has the suffix of the reader's, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    try:
        for name, sound in reader.beside.items():
            (folder / name).write_bytes(sound)
        name = reader.name
        path = folder / (name if "." in name and " " not in name else "input.json")
        path.write_bytes(content)
        yield path
    finally:
        shutil.rmtree(folder, ignore_errors=True)
