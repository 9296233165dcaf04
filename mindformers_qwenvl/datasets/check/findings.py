"""The findings of a check, as text, as a picture and as JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.datasets.check.sample_check import FAULTS, WARNINGS, Finding, Result

__all__ = ["CheckReport", "draw_histogram"]

SHOWN = 5  # samples that the report names for each kind of finding
BINS = 12
WIDTH = 40  # characters of the longest bar


class CheckReport:
    """Collects results. It keeps three numbers per sample, and the first findings of each kind.

    Args:
        count: number of samples.
        max_length, max_images: the limits of training.
        lines: a text file that gets every finding as a line of JSON, or None.
        least: number of samples that training needs for a batch.
    """

    def __init__(
        self, count: int, max_length: int, max_images: int, lines: IO[str] | None = None, *, least: int = 1
    ) -> None:
        self.too_few = (
            f"{count:,} samples do not fill a batch of runner_config.batch_size {least:,} (drop_remainder: True)"
            if count < least
            else ""
        )
        self.tokens = np.full(count, -1, np.int32)
        self.trained = np.zeros(count, np.int32)
        self.images = np.zeros(count, np.int32)
        self.max_length, self.max_images = max_length, max_images
        self.counts: Counter[str] = Counter()
        self.failing: Counter[str] = Counter()
        self.first: dict[str, list[Finding]] = {}
        self.checked = 0
        self._lines = lines

    def add(self, start: int, results: Iterable[Result]) -> None:
        """Add the results of the samples `start`, `start + 1`, ..."""
        for index, result in enumerate(results, start):
            self.checked += 1
            self.tokens[index], self.trained[index], self.images[index] = result.tokens, result.trained, result.images
            for finding in result.findings:
                self._add(finding)

    def _add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        self.failing[finding.kind] += finding.fails
        first = self.first.setdefault(finding.kind, [])
        if len(first) < SHOWN:
            first.append(finding)
        if self._lines is not None:
            self._lines.write(json.dumps(finding.__dict__, ensure_ascii=False, default=str) + "\n")

    @property
    def fails(self) -> bool:
        """Whether training would stop: at one of the samples, or because there are too few."""
        return bool(self.too_few) or any(self.failing.values())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample that could be laid out, before it is cut; int32 [n]."""
        return self.tokens[self.tokens >= 0]

    def __str__(self) -> str:
        usable = self.tokens >= 0
        lines = [f"samples   {self.checked:,}, {int(usable.sum()):,} could be laid out"]
        if usable.any():
            lines += [f"tokens    {_spread(self.lengths)}; max_length {self.max_length:,}"]
            lines += [f"trained   {_spread(self.trained[usable])}; {int(self.trained.sum(dtype=np.int64)):,} in all"]
            per_sample = Counter(self.images[usable].tolist())
            counts = ", ".join(f"{count:,} with {images}" for images, count in sorted(per_sample.items())[:10])
            lines += [f"images    {counts}; {self.max_images} allowed", *_bars(self.lengths, self.max_length)]
        for kind in (*FAULTS, *WARNINGS):
            lines += self._kind(kind)
        if self.too_few:
            lines.append(f"FAILS     {self.too_few}; set a smaller batch_size")
        failing = sum(self.failing.values()) + bool(self.too_few)
        notes = sum(self.counts.values()) - sum(self.failing.values())
        if self.fails:
            lines.append(f"training would stop at {failing:,} of these findings")
        else:
            lines.append(
                "training would read all samples" + (f", including those of the {notes:,} notes above" if notes else "")
            )
        return "\n".join(lines)

    def _kind(self, kind: str) -> list[str]:
        if not self.counts[kind]:
            return []
        lines = [f"{'FAILS' if self.failing[kind] else 'note '}     {kind}: {self.counts[kind]:,}"]
        for finding in self.first[kind]:
            name = f"sample {finding.sample}" + (f", id {finding.id!r}" if finding.id is not None else "")
            lines.append(f"            {name}: {printable(finding.detail)}")
        return lines + ["            ..."] * (self.counts[kind] > len(self.first[kind]))


def _spread(numbers: np.ndarray) -> str:
    low, middle, high, top = np.percentile(numbers, (0, 50, 95, 100)).astype(int)
    return f"{low:,} to {top:,}, half up to {middle:,}, 95% up to {high:,}"


def _edges(lengths: np.ndarray) -> np.ndarray:
    """The edges of bins of equal width, which is a round number."""
    low, top = int(lengths.min()), int(lengths.max()) + 1
    width = -(-(top - low) // BINS)
    unit = 10 ** max(0, len(str(width)) - 2)
    width = -(-width // unit) * unit
    return np.arange(low // width, -(-top // width) + 1) * width


def _bars(lengths: np.ndarray, max_length: int) -> list[str]:
    counts, edges = np.histogram(lengths, _edges(lengths))
    lines = []
    for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        bar = "#" * max(round(count / counts.max() * WIDTH), count > 0)
        mark = "  <- max_length" if low <= max_length < high else ""
        lines.append(f"  {low:>7,} to {high - 1:>7,}  {count:>9,} {bar}{mark}")
    return lines


def draw_histogram(lengths: np.ndarray, max_length: int, file: IO[Any]) -> None:
    """Write a histogram of `lengths`, int [n], as a PNG to the binary `file`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(60, max(1, len(np.unique(lengths)))), color="tab:blue")
    longer = int((lengths > max_length).sum())
    axes.axvline(max_length, color="tab:red", label=f"max_length {max_length:,}: {longer:,} of {len(lengths):,} longer")
    axes.set_xlabel("tokens per sample")
    axes.set_ylabel("samples")
    axes.legend()
    figure.savefig(file, format="png", dpi=120)
