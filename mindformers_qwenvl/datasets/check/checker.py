"""A whole dataset, checked by several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import IO, Any

from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.datasets.check.findings import CheckReport
from mindformers_qwenvl.datasets.check.job import Settings
from mindformers_qwenvl.datasets.check.sample_check import Checker, Result
from mindformers_qwenvl.files import Inputs

__all__ = ["check_file"]

CHUNK = 32  # samples that a process takes at a time
CHUNKS_PER_WORKER = 4  # submitted at a time; more would only take memory

PARENT_CHECKED_EVERY = 1.0  # seconds

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
        path: the annotation file.
        settings: see `read_settings`.
        workers: processes; with 1, everything is done in this one.
        lines: a text file for the findings, see `CheckReport`.
        progress: called with the number of samples that are done and the total number.

    Raises:
        OSError: the file, the vocabulary or a folder does not exist.
        AnnotationError: the file as a whole cannot be read.
        ValueError: the vocabulary has more ids than the model, or a setting is not allowed; or the file
            changed while it was read.
        ChildProcessError: a worker died, for example out of memory; the message says near which sample.
    """
    inputs = Inputs(path)
    file = AnnotationFile(path, **settings.keys)
    count = len(file) if settings.num_samples is None else min(len(file), settings.num_samples)
    checker = Checker(file, settings)
    report = CheckReport(count, settings.max_length, settings.max_images, lines, least=settings.least_samples)
    for start, results in _results(checker, count, workers):
        report.add(start, results)
        if progress is not None:
            progress(report.checked, count)
    inputs.check()
    return report


def _results(checker: Checker, count: int, workers: int) -> Iterator[tuple[int, list[Result]]]:
    """(number of the first sample, results) of each chunk, in the order of the file."""
    chunks = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if workers <= 1 or len(chunks) == 1:
        for start, stop in chunks:
            yield start, [checker.check(index) for index in range(start, stop)]
        return
    # A forked process has the vocabulary and the index already; no thread is running yet.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    arguments = (os.getpid(), *(() if method == "fork" else (checker.file, checker.settings)))
    global _checker
    _checker = checker
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _make_checker, arguments)
    submitted: deque = deque()
    try:
        for start, stop in chunks:
            submitted.append((start, stop, pool.submit(_check, start, stop)))
            if len(submitted) >= workers * CHUNKS_PER_WORKER:
                start, _, future = submitted.popleft()
                yield start, future.result()
        while submitted:
            start, _, future = submitted.popleft()
            yield start, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a worker process died near sample {start}, perhaps out of memory; --workers 1 shows at which sample"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _checker = None


def _make_checker(parent: int, *arguments: Any) -> None:
    """Prepare a worker process, which ends when `parent` does: a killed parent cannot end its workers itself."""
    global _checker
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if arguments:
        _checker = Checker(*arguments)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECKED_EVERY)
    os._exit(1)


def _check(start: int, stop: int) -> list[Result]:
    return [_checker.check(index) for index in range(start, stop)]
