"""Counters of a server, in Prometheus' text format. Plain Python."""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Histogram", "Metrics"]

PREFIX = "mindformers_qwenvl_"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Histogram:
    """Seconds, counted in ranges that end at `bounds`."""

    def __init__(self, bounds: Sequence[float] = SECONDS):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterator[str]:
        """Lines in Prometheus' format: for each bound, how many values do not exceed it."""
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What happened since the server started. Several threads count, but only one of them writes each number."""

    def __init__(self) -> None:
        self.waiting = self.running = 0
        self.prompt_tokens = self.generated_tokens = self.cancelled = 0
        self.pictures_found = self.pictures_encoded = self.picture_bytes = 0
        self.finished: collections.Counter[str] = collections.Counter({"stop": 0, "length": 0})
        self.responses: collections.Counter[int] = collections.Counter()
        self.first_token, self.token_gap, self.seconds = Histogram(), Histogram(), Histogram()

    def text(self) -> str:
        """The text of /metrics."""
        lines: list[str] = []

        def add(kind: str, name: str, what: str, values: Mapping[str, float]) -> None:
            lines.append(f"# HELP {PREFIX}{name} {what}")
            lines.append(f"# TYPE {PREFIX}{name} {kind}")
            lines.extend(f"{PREFIX}{name}{labels} {value}" for labels, value in values.items())

        add("gauge", "requests_waiting", "Answers in the queue.", {"": self.waiting})
        add("gauge", "requests_running", "Answers being written.", {"": self.running})
        add(
            "counter", "prompt_tokens_total", "Tokens of prompts, those of pictures included.", {"": self.prompt_tokens}
        )
        add("counter", "generated_tokens_total", "Tokens of answers.", {"": self.generated_tokens})
        finished = {f'{{finish_reason="{reason}"}}': count for reason, count in sorted(self.finished.items())}
        add("counter", "answers_total", "Answers that were completed.", finished)
        add("counter", "answers_cancelled_total", "Answers whose client disconnected.", {"": self.cancelled})
        responses = {f'{{status="{status}"}}': count for status, count in sorted(self.responses.items())}
        add("counter", "http_responses_total", "Responses by HTTP status.", responses)
        add("counter", "pictures_encoded_total", "Pictures that the vision tower encoded.", {"": self.pictures_encoded})
        add("counter", "pictures_found_total", "Pictures whose vectors were kept.", {"": self.pictures_found})
        add("gauge", "picture_vectors_bytes", "Memory of the vectors that are kept.", {"": self.picture_bytes})
        for name, what, histogram in (
            ("first_token_seconds", "From the request's arrival to the first token.", self.first_token),
            ("token_gap_seconds", "Between two tokens of an answer.", self.token_gap),
            ("answer_seconds", "From the request's arrival to the last token.", self.seconds),
        ):
            add("histogram", name, what, {})
            lines.extend(histogram.lines(PREFIX + name))
        return "\n".join(lines) + "\n"
