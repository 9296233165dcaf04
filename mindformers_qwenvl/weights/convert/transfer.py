"""Moving the numbers: blocks are read, cast and written (or compared) by up to four threads.

Reading, numpy and writing all let other threads run, and the place of every block in the result is known beforehand,
so the threads do not wait for each other. Each has buffers of one block, whatever the size of the weights.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mindformers_qwenvl.weights.convert.dtypes import ITEM_BYTES, STORAGE, cast_into, new_scratch, not_finite
from mindformers_qwenvl.weights.convert.plan import Target
from mindformers_qwenvl.weights.formats.readable import Readable

__all__ = ["Counts", "Progress", "compare", "write_all", "write_numbers"]

Progress = Callable[[str, int], None]
"""Called with a tensor's name and the bytes done since the last call; never by two threads at once."""

Counts = dict[str, dict[str, int]]
"""`overflow`: tensor -> finite values that became infinite; `not_finite`: tensor -> NaN or infinite in the input."""

Ranges = tuple[tuple[int, int], ...]
BLOCK = 1 << 18  # numbers read and written at a time
_CHUNK = 16  # blocks that a thread takes at a time; without a cast the system copies them in one call


class _Step(NamedTuple):
    """One block: where it comes from, and the byte position it goes to."""

    target: Target
    source: str
    start: int
    count: int
    position: int


class _Buffers(threading.local):
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.source, self.result = (np.empty(BLOCK, np.uint32) for _ in range(2))
        self.scratch = new_scratch()


def _steps(target: Target, ranges: Ranges) -> Iterator[_Step]:
    item = ITEM_BYTES[target.entry.dtype]
    rooms = iter(ranges)
    position = room = 0
    for source, start, stop in target.pieces:
        while start < stop:
            if not room:
                position, room = next(rooms)
            count = min(BLOCK, stop - start, room // item)
            yield _Step(target, source, start, count, position)
            start, position, room = start + count, position + count * item, room - count * item


def _numbers(checkpoint: Readable, step: _Step, buffers: _Buffers) -> tuple[np.ndarray, int, int]:
    """The block in its final dtype, in one of the buffers; how many values overflowed; and how many were not finite."""
    kind, wanted = checkpoint.tensors[step.source].dtype, step.target.entry.dtype
    result = buffers.result.view(STORAGE[wanted])[: step.count]
    if kind != wanted and checkpoint.read_as(step.source, step.start, wanted, result):
        return result, 0, 0
    block = buffers.source.view(STORAGE[kind])[: step.count]
    checkpoint.read_into(step.source, step.start, block)
    if kind == wanted:
        return block, 0, not_finite(block, kind)
    return result, cast_into(block, kind, result, wanted, buffers.scratch), not_finite(block, kind)


def _joined(steps: Iterable[_Step]) -> list[_Step]:
    """The same blocks, with those that are adjacent in source and result joined."""
    joined: list[_Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if last and last.source == step.source and last.start + last.count == step.start:
            length = last.count * ITEM_BYTES[step.target.entry.dtype]
            if last.position + length == step.position:
                joined[-1] = last._replace(count=last.count + step.count)
                continue
        joined.append(step)
    return joined


def _run(
    jobs: Iterable[tuple[Target, Ranges]],
    work: Callable[[_Step, _Buffers], int],
    progress: Progress,
    shortcut: Callable[[_Step], bool] = lambda step: False,
    after: Callable[[_Step, _Buffers], None] = lambda step, buffers: None,
    threads: int = 4,
) -> Iterator[tuple[Target, int]]:
    """For each chunk, its target and the sum of what `work` returns; where `shortcut` did it, `after` runs instead."""
    buffers, telling = _Buffers(), threading.Lock()

    def chunk_of_blocks(steps: list[_Step]) -> int:
        total = 0
        if all(shortcut(step) for step in _joined(steps)):
            for step in steps:
                after(step, buffers)
            with telling:
                progress(steps[0].target.entry.name, sum(s.count * ITEM_BYTES[s.target.entry.dtype] for s in steps))
            return 0
        for step in steps:
            total += work(step, buffers)
            with telling:
                progress(step.target.entry.name, step.count * ITEM_BYTES[step.target.entry.dtype])
        return total

    def chunks() -> Iterator[list[_Step]]:
        for target, ranges in jobs:
            steps = _steps(target, ranges)
            while chunk := list(itertools.islice(steps, _CHUNK)):
                yield chunk

    planned = list(chunks())
    with ThreadPoolExecutor(min(threads, os.cpu_count() or 1)) as pool:
        for chunk, total in zip(planned, pool.map(chunk_of_blocks, planned), strict=True):
            yield chunk[0].target, total


def write_numbers(
    descriptor: int, checkpoint: Readable, targets: Iterable[Target], ranges: Mapping[str, Ranges], progress: Progress
) -> Counts:
    """Write the numbers of `targets` into an open file.

    Args:
        ranges: name of a target -> (position in the file, bytes) of its numbers.

    Returns:
        What was counted, for the targets with a count above 0.
    """
    counts: Counts = {"overflow": {}, "not_finite": {}}
    counting = threading.Lock()

    def count_not_finite(step: _Step, count: int) -> None:
        if count:
            with counting:
                found = counts["not_finite"]
                found[step.target.entry.name] = found.get(step.target.entry.name, 0) + count

    def work(step: _Step, buffers: _Buffers) -> int:
        block, overflow, strange = _numbers(checkpoint, step, buffers)
        write_all(descriptor, memoryview(block).cast("B"), step.position)
        count_not_finite(step, strange)
        return overflow

    def look_at(step: _Step, buffers: _Buffers) -> None:  # what the system has copied: it is in the page cache now
        kind = checkpoint.tensors[step.source].dtype
        block = buffers.source.view(STORAGE[kind])[: step.count]
        checkpoint.read_into(step.source, step.start, block)
        count_not_finite(step, not_finite(block, kind))

    def copy(step: _Step) -> bool:
        same = checkpoint.tensors[step.source].dtype == step.target.entry.dtype
        return same and checkpoint.copy_to(descriptor, step.position, step.source, step.start, step.count)

    jobs = [(target, ranges[target.entry.name]) for target in targets]
    casts = any(checkpoint.tensors[name].dtype != to.entry.dtype for to, _ in jobs for name, _, _ in to.pieces)
    threads = 4 if casts else 1  # the system lets one thread at a time write into a file
    overflow = counts["overflow"]
    for target, count in _run(jobs, work, progress, copy, look_at, threads):
        if count:
            overflow[target.entry.name] = overflow.get(target.entry.name, 0) + count
    return counts


def compare(checkpoint: Readable, targets: Iterable[Target], written: Readable, progress: Progress) -> list[str]:
    """Names of the targets whose bytes in `written` are not those that `checkpoint` gives."""
    spare = threading.local()

    def work(step: _Step, buffers: _Buffers) -> int:
        block = _numbers(checkpoint, step, buffers)[0]
        if not hasattr(spare, "room"):
            spare.room = np.empty(BLOCK, np.uint32)
        back = spare.room.view(block.dtype)[: step.count]
        written.read_into(step.target.entry.name, step.position // block.itemsize, back)
        bits = f"u{block.itemsize}"  # as numbers, a NaN would differ from itself
        return int(not np.array_equal(block.view(bits), back.view(bits)))

    jobs = [(target, ((0, target.entry.nbytes),)) for target in targets]
    return list(dict.fromkeys(target.entry.name for target, wrong in _run(jobs, work, progress) if wrong))


def write_all(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write `data` at `position`, however many calls that takes."""
    view = memoryview(data)
    while view:  # a call may write less than it is given: Linux stops at 2 GiB
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
