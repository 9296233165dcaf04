"""The thread that owns the network. Rows join and leave the running batch between tokens (continuous batching)."""

from __future__ import annotations

import collections
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mindformers_qwenvl.serve.choose import Chooser, Likely, likely
from mindformers_qwenvl.serve.errors import ApiError, broken, overloaded, stopping
from mindformers_qwenvl.serve.jobs import Job, Piece
from mindformers_qwenvl.serve.metrics import Metrics
from mindformers_qwenvl.text.stream import TextStream

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

FAILURES = 3  # after this many failed steps in a row, the engine is broken


class _Running:
    """A job that has a row of the batch."""

    def __init__(self, job: Job, blocks: list[int], chooser: Chooser, text: TextStream):
        self.job, self.blocks, self.chooser, self.text = job, blocks, chooser, text
        self.answer: list[int] = []
        self.likely: list[Likely] = []  # not sent yet
        self.last = 0.0  # when the latest token came

    @property
    def length(self) -> int:
        return len(self.job.prompt) + len(self.answer)


class Engine:
    """Answers jobs with a network, in a thread of its own.

    Args:
        network, steps: a `QwenVL`, and its `chat.steps.Steps`.
        tokenizer: its `QwenVLTokenizer`.
        vectors: a `chat.vectors.PictureVectors` of the network.
        queue: how many jobs may wait.
        metrics: the counters to update.
    """

    def __init__(self, network: Any, steps: Any, tokenizer: Any, vectors: Any, queue: int, metrics: Metrics):
        self.network, self.steps, self.tokenizer, self.vectors = network, steps, tokenizer, vectors
        self.queue = queue
        self.metrics = metrics
        self.rows = steps.row_sizes[-1]
        self.ready = threading.Event()
        self.broken = False
        self.on_broken: Callable[[], None] = lambda: None
        self._free = list(range(network.config.num_blocks))
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: list[_Running] = []
        self._changed = threading.Condition()
        self._closed = False  # takes no more jobs
        self._give_up: float | None = None  # when jobs that still run are ended
        self._failures = 0
        self._thread = threading.Thread(target=self._work, name="qwenvl-engine", daemon=True)

    # ---- for other threads

    def start(self, say: Callable[[str], None]) -> None:
        """Compile the graphs, then answer."""
        self._say = say
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs, all or none.

        Raises:
            ApiError: the queue is full, or the engine is broken or stopping.
        """
        with self._changed:
            if self.broken:
                raise broken()
            if self._closed:
                raise stopping()
            if len(self._waiting) + len(jobs) > self.queue + max(self.rows - len(self._running), 0):
                raise overloaded(len(self._waiting))
            self._waiting.extend(jobs)
            self._count()
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Give up a job: its row is freed at the next token, and nothing more is sent."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many rows are in the batch."""
        return len(self._running)

    def close(self, grace: float) -> None:
        """Accept no more jobs. Waiting jobs get an error; running jobs have `grace` seconds to finish."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._give_up = time.monotonic() + grace
                self._changed.notify_all()

    def fail(self) -> None:
        """Stop answering, because something the network needs is gone."""
        with self._changed:
            self.broken = self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float) -> bool:
        """Wait for the engine to end; returns whether it has."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the engine's own thread

    def _work(self) -> None:
        try:
            start = time.monotonic()
            for number, total, what in self.steps.compile():
                if self._closed:
                    break
                self._say(f"compiling graph {number} of {total}: {what}")
            else:
                self._say(f"compiled in {time.monotonic() - start:.0f} s")
                self.ready.set()
            while self._turn():
                pass
        except BaseException:
            logger.exception("the engine has stopped")
            self.broken = True
        finally:
            self.ready.clear()
            self._end_all(broken() if self.broken else stopping())
            if self.broken:
                self.on_broken()

    def _turn(self) -> bool:
        """Process one prompt, if one waits, and one token of each row; returns False at the end."""
        with self._changed:
            while not (self._waiting or self._running or self._closed):
                self._changed.wait(timeout=5)
            if self.broken:
                return False
            self._drop_waiting()
            job = self._next()
        self._drop_running()
        if self._closed and not self._running:
            return False
        if job is not None:
            self._guarded([job], functools.partial(self._admit, job))
        if self._running:
            self._guarded([row.job for row in self._running], self._decode)
        self._count()
        return True

    def _drop_waiting(self) -> None:
        now, kept = time.monotonic(), []
        for job in self._waiting:
            if self._closed:
                job.send(stopping())
            elif now > job.deadline:
                job.send(_out_of_time())
            elif not job.cancelled:
                kept.append(job)
        self._waiting = collections.deque(kept)

    def _drop_running(self) -> None:
        now = time.monotonic()
        for row in list(self._running):
            if row.job.cancelled:
                self._leave(row)
                self.metrics.cancelled += 1
            elif now > row.job.deadline:
                self._leave(row)
                row.job.send(_out_of_time())
            elif self._give_up is not None and now > self._give_up:
                self._leave(row)
                row.job.send(stopping())

    def _next(self) -> Job | None:
        """The job that has waited longest, if it can join. No job overtakes it, so none waits for ever."""
        if not self._waiting or len(self._running) == self.rows:
            return None
        job = self._waiting[0]
        if self._running and job.adapter != self._running[0].job.adapter:
            return None
        if self._blocks(job) > len(self._free):
            return None
        return self._waiting.popleft()

    def _blocks(self, job: Job) -> int:
        return self.steps.blocks_of(len(job.prompt) + job.most)

    def _admit(self, job: Job) -> None:
        if getattr(self.network, "active_adapter", None) != job.adapter:
            self.steps.set_adapter(job.adapter)
        # An adapter may change the vision tower, so vectors are kept for each adapter.
        vectors = [self.vectors.of((job.adapter, picture.digest), picture.pixels) for picture in job.pictures]
        blocks = [self._free.pop() for _ in range(self._blocks(job))]
        try:
            chooser = Chooser(self.network, job.config, job.prompt.input_ids, job.stops, job.seed, job.nudges)
            row = _Running(job, blocks, chooser, TextStream(self.tokenizer, job.stop_texts, job.strip))
            logits = self.steps.prefill(job.prompt, vectors, blocks)
        except BaseException:
            self._free += blocks
            raise
        self._running.append(row)
        self.metrics.prompt_tokens += len(job.prompt)
        self.metrics.first_token.observe(time.monotonic() - job.asked)
        self._take(row, logits)

    def _decode(self) -> None:
        rows = list(self._running)
        logits = self.steps.decode(
            [row.answer[-1] for row in rows],
            [row.length for row in rows],
            [len(row.job.prompt) for row in rows],
            [row.blocks for row in rows],
        )
        for row, scores in zip(rows, logits, strict=True):  # an error in one row ends only that row
            self._guarded([row.job], functools.partial(self._take, row, scores))

    def _take(self, row: _Running, logits: np.ndarray) -> None:
        """Choose the next token of a row, and send the text that is certain now."""
        job = row.job
        token = row.chooser.choose(row.answer, logits)
        now = time.monotonic()
        if row.answer:
            self.metrics.token_gap.observe(now - row.last)
        row.last = now
        row.answer.append(token)
        self.metrics.generated_tokens += 1
        finish = None
        if token in job.stops:
            finish, text = "stop", row.text.end()
        else:
            if job.top is not None:
                row.likely.append(likely(token, logits, job.top))
            text = row.text.add(token)
            if row.text.stopped or any(row.answer[-len(ids) :] == list(ids) for ids in job.stop_sequences):
                finish = "stop"
            elif len(row.answer) >= job.most:
                finish = "length"
            if finish:
                text += row.text.end()
        if not (text or finish):
            return
        if finish:
            self._leave(row)
            self.metrics.finished[finish] += 1
            self.metrics.seconds.observe(now - job.asked)
        job.send(Piece(text, tuple(row.likely), finish, len(row.answer) if finish else 0))
        row.likely.clear()

    def _leave(self, row: _Running) -> None:
        self._running.remove(row)
        self._free += row.blocks

    def _guarded(self, jobs: Sequence[Job], step: Callable[[], None]) -> None:
        """A step that fails ends its jobs, not the engine."""
        try:
            step()
            self._failures = 0
        except Exception as error:
            logger.exception("a step of the network failed")
            self._failures += 1
            for row in [row for row in self._running if row.job in jobs]:
                self._leave(row)
            for job in jobs:
                job.send(ApiError(500, f"the model failed: {type(error).__name__}", "server_error", code="failed"))
            if self._failures >= FAILURES:
                raise

    def _end_all(self, error: ApiError) -> None:
        with self._changed:
            self._closed = True
            left = [row.job for row in self._running] + list(self._waiting)
            self._running.clear()
            self._waiting.clear()
            for job in left:
                job.send(error)
            self._count()

    def _count(self) -> None:
        self.metrics.waiting, self.metrics.running = len(self._waiting), len(self._running)


def _out_of_time() -> ApiError:
    return ApiError(
        503,
        "the answer took longer than this server allows (its option --request-timeout)",
        "server_error",
        code="request_timeout",
    )
