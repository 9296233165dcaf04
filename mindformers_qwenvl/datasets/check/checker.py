"""A whole dataset, checked by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import IO

from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.datasets.check.findings import CheckReport
from mindformers_qwenvl.datasets.check.job import Settings
from mindformers_qwenvl.datasets.check.sample_check import Checker, Result

__all__ = ["check_file"]

CHUNK = 32  # samples a process takes at a time
WAITING = 4  # chunks that are under way for each process; more would only be memory

_checker: Checker | None = None  # of a worker process


def check_file(
    path: str | os.PathLike[str],
    settings: Settings,
    *,
    workers: int = 1,
    lines: IO[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every sample of `path`.

    Args:
        workers: processes; 1 does without others.
        lines, progress: for every finding, see `CheckReport`; called with how many samples are done, and of how many.

    Raises:
        OSError: the file, the vocabulary or a folder is not there.
        AnnotationError: the file as a whole cannot be read.
        ValueError: a setting makes no sense.
        ChildProcessError: a worker died, as by want of memory; says near which sample.
    """
    file = AnnotationFile(path, **settings.keys)
    count = len(file) if settings.num_samples is None else min(len(file), settings.num_samples)
    checker = Checker(file, settings)
    report = CheckReport(count, settings.max_length, settings.max_images, lines, least=settings.least_samples)
    for start, results in _results(checker, count, workers):
        report.add(start, results)
        if progress is not None:
            progress(report.checked, count)
    return report


def _results(checker: Checker, count: int, workers: int) -> Iterator[tuple[int, list[Result]]]:
    """(number of the first sample, results) of each chunk, in the order of the file."""
    chunks = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if workers <= 1 or len(chunks) == 1:
        for start, stop in chunks:
            yield start, [checker.check(index) for index in range(start, stop)]
        return
    # A fork has the vocabulary and the index without reading them again; no thread is running yet.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    arguments = () if method == "fork" else (checker.file, checker.settings)
    global _checker
    _checker = checker
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _make_checker, arguments)
    under_way: deque = deque()
    try:
        for start, stop in chunks:
            under_way.append((start, stop, pool.submit(_check, start, stop)))
            if len(under_way) >= workers * WAITING:
                start, _, future = under_way.popleft()
                yield start, future.result()
        while under_way:
            start, _, future = under_way.popleft()
            yield start, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a worker died near sample {start}, maybe for want of memory; --workers 1 says at which sample"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _checker = None


def _make_checker(*arguments) -> None:
    global _checker
    if arguments:
        _checker = Checker(*arguments)


def _check(start: int, stop: int) -> list[Result]:
    return [_checker.check(index) for index in range(start, stop)]
