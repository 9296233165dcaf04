"""The curves of one or several runs as a PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.training.steps_file import COLUMNS, Row, find_steps_files, read_steps

__all__ = ["Run", "draw", "mean_over_ranks", "read_run", "smooth"]

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


@dataclass(frozen=True)
class Run:
    """A run's name and, by column, its numbers over the steps; NaN where one is not known."""

    name: str
    columns: Mapping[str, list[float]]

    @property
    def steps(self) -> list[float]:
        return self.columns["step"]


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """A run from its `output_dir`; several cards: the mean over them.

    Raises:
        FileNotFoundError: no files of its steps there.
        ValueError: they are damaged, or hold no step.
    """
    files = find_steps_files(run_dir)
    rows = mean_over_ranks([read_steps(path) for path in files])
    if not rows:
        raise ValueError(f"{run_dir}: no step yet in {files[0]}")
    known = {name: [math.nan if row.get(name) is None else row[name] for row in rows] for name in COLUMNS}
    return Run(str(run_dir), known)


def mean_over_ranks(ranks: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several processes as one, by step: the mean over those that have the step.

    They need not have the same ones: a run may go on in more processes than it began in, or in fewer. Rates are of all
    cards together in every process's row, so that their mean is right whichever of them have it.
    """
    by_step = [{row["step"]: row for row in rows} for rows in ranks]
    steps = sorted(set().union(*by_step))
    # A run that is going on: one that has the step before the last but not the last is about to write it.
    if len(steps) > 1 and any(steps[-2] in rank and steps[-1] not in rank for rank in by_step):
        steps.pop()
    merged = []
    for step in steps:
        rows = [rank[step] for rank in by_step if step in rank]
        known = {name: [row[name] for row in rows if row.get(name) is not None] for name in COLUMNS}
        merged.append({name: sum(found) / len(found) if found else None for name, found in known.items()})
    return merged


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and the `window` - 1 before it (fewer at the beginning), what is not finite left out."""
    if window < 1:
        raise ValueError(f"the window must be 1 step at least, got {window}")
    smoothed = []
    for end in range(1, len(values) + 1):
        finite = [value for value in values[max(0, end - window) : end] if math.isfinite(value)]
        smoothed.append(sum(finite) / len(finite) if finite else math.nan)
    return smoothed


def draw(runs: Sequence[Run], path: str | os.PathLike[str], window: int | None = None) -> None:
    """Loss (each step, and smoothed), learning rate, gradient norm and throughput over the steps, as the PNG `path`.

    Args:
        window: steps that the smoothed loss is the mean of. None: a fiftieth of the longest run, 5 to 100.

    Raises:
        ImportError: no matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("curves are drawn with matplotlib: pip install 'mindformers-qwenvl[demo]'") from None

    if window is None:
        window = min(100, max(5, max(len(run.steps) for run in runs) // 50))
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, rate), (norm, speed) = figure.subplots(2, 2)
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        loss.plot(run.steps, run.columns["loss"], color=colour, alpha=0.25, linewidth=0.8)
        loss.plot(run.steps, smooth(run.columns["loss"], window), color=colour, label=run.name)
        for axes, column in ((rate, "learning_rate"), (norm, "grad_norm"), (speed, "tokens_per_s")):
            marker = "." if len(run.steps) == 1 else None  # a line of one point is not to be seen
            axes.plot(run.steps, run.columns[column], color=colour, linewidth=0.9, marker=marker)
        if len(runs) == 1 and not all(map(math.isnan, run.columns["mfu"])):
            mfu = speed.twinx()
            mfu.plot(run.steps, [100 * value for value in run.columns["mfu"]], color="gray", linewidth=0.7)
            mfu.set_ylabel("MFU (%)", color="gray")
    loss.set(title=f"loss: each step, mean of {window}", ylabel="loss")
    rate.set(title="learning rate")
    norm.set(title="gradient norm, before clipping")
    speed.set(title="throughput", ylabel="tokens/s")
    for axes, column in ((norm, "grad_norm"), (rate, "learning_rate")):
        if all(math.isnan(value) for run in runs for value in run.columns[column]):
            axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes)
    for axes in (loss, rate, norm, speed):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    loss.legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
