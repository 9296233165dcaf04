"""The curves of one or several runs as a PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import whole
from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.training.steps_file import COLUMNS, Row, find_steps_files, read_steps

__all__ = ["Run", "draw", "mean_over_ranks", "read_run", "smooth"]

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
LOG_STEPS_FROM = 5  # a logarithmic axis of steps if the longest run is more than this many times the shortest


@dataclass(frozen=True)
class Run:
    """A run: its name, and its numbers over the steps for each column; NaN where a number is not known."""

    name: str
    columns: Mapping[str, list[float]]

    @property
    def steps(self) -> list[float]:
        return self.columns["step"]


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """The run in an `output_dir`; with several cards, the mean over them.

    Raises:
        FileNotFoundError: it has no files of steps.
        ValueError: the files are damaged or hold no step.
    """
    files = find_steps_files(run_dir)
    rows = mean_over_ranks([read_steps(path) for path in files])
    if not rows:
        raise ValueError(f"{run_dir}: no step yet in {files[0]}")
    known = {name: [math.nan if row.get(name) is None else row[name] for row in rows] for name in COLUMNS}
    return Run(str(run_dir), known)


def mean_over_ranks(ranks: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several processes merged by step: the mean over the processes that have the step.

    Not every process has every step: a run may be resumed with more or fewer processes. Throughput in every row is that
    of all cards together, so the mean is right whichever processes have the row.
    """
    by_step = [{row["step"]: row for row in rows} for rows in ranks]
    steps = sorted(set().union(*by_step))
    # The run may be going on: then a process that has the last step but one is about to write the last one.
    if len(steps) > 1 and any(steps[-2] in rank and steps[-1] not in rank for rank in by_step):
        steps.pop()
    merged = []
    for step in steps:
        rows = [rank[step] for rank in by_step if step in rank]
        known = {name: [row[name] for row in rows if row.get(name) is not None] for name in COLUMNS}
        merged.append({name: sum(found) / len(found) if found else None for name, found in known.items()})
    return merged


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of the `window` values around each value, as many after it as before, which does not shift the curve.

    Near both ends the window shrinks, down to the value itself. An even window counts as one more. Values that are not
    finite are ignored; if there are no others, the mean is NaN.

    Raises:
        ValueError: the window is smaller than 1.
    """
    half = whole("window", window) // 2
    smoothed = []
    for at in range(len(values)):
        reach = min(half, at, len(values) - 1 - at)
        finite = [value for value in values[at - reach : at + reach + 1] if math.isfinite(value)]
        smoothed.append(sum(finite) / len(finite) if finite else math.nan)
    return smoothed


def draw(
    runs: Sequence[Run], path: str | os.PathLike[str], window: int | None = None, *, log_loss: bool = False
) -> None:
    """Loss, gradient norm and throughput (each step, and smoothed) and learning rate over the steps, as the PNG `path`.

    If one run is less than a fifth as long as another, the steps are on a logarithmic axis, so that both can be seen.

    Args:
        runs: at least one; each has its own colour.
        window: steps in each mean of the smoothed lines. None: a fiftieth of each run, but from 5 to 100.
        log_loss: put the loss and the gradient norm on logarithmic axes.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: with `log_loss`, a run has no loss above 0.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("curves are drawn with matplotlib: pip install 'mindformers-qwenvl[demo]'") from None

    if log_loss:
        for run in runs:
            if not any(value > 0 for value in run.columns["loss"]):
                raise ValueError(f"{run.name}: there is no loss above 0, which a logarithmic axis needs")
    ends = [run.steps[-1] for run in runs]
    log_steps = min(ends) < max(ends) / LOG_STEPS_FROM and min(run.steps[0] for run in runs) > 0
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    (loss, rate), (norm, speed) = figure.subplots(2, 2)
    windows = [(window or min(100, max(5, len(run.steps) // 50))) | 1 for run in runs]  # odd, see `smooth`
    order = sorted(range(len(runs)), key=lambda number: -len(runs[number].steps))  # short ones on top
    lines = {}
    for number in order:
        run, colour = runs[number], COLOURS[number % len(COLOURS)]
        marker = "." if len(run.steps) == 1 else None  # a line of one point cannot be seen
        rate.plot(run.steps, run.columns["learning_rate"], color=colour, linewidth=1.4, marker=marker)
        for axes, column in ((loss, "loss"), (norm, "grad_norm"), (speed, "tokens_per_s")):
            axes.plot(run.steps, run.columns[column], color=colour, alpha=0.25, linewidth=0.8)
            smoothed = smooth(run.columns[column], windows[number])
            (lines[number],) = axes.plot(run.steps, smoothed, color=colour, linewidth=1.8, marker=marker)
    _draw_mfu(runs, speed)
    _draw_validation(runs, loss)
    loss.set(title="loss", ylabel="loss")
    rate.set(title="learning rate")
    norm.set(title="gradient norm, before clipping")
    speed.set(title="throughput", ylabel="tokens/s")
    for axes, column in ((loss, "loss"), (norm, "grad_norm"), (rate, "learning_rate"), (speed, "tokens_per_s")):
        if all(math.isnan(value) for run in runs for value in run.columns[column]):
            axes.text(0.5, 0.5, "not known", ha="center", va="center", transform=axes.transAxes)
        elif log_loss and axes in (loss, norm):
            _make_log(axes, "y")
        axes.set_xlabel("step (log scale)" if log_steps else "step")
        if log_steps:
            _make_log(axes, "x")
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    names = []
    for run, width in zip(runs, windows, strict=True):
        length = f"{len(run.steps):,} steps, lines are means of {width}" if len(run.steps) > 1 else "1 step"
        names.append(f"{shortened(run.name)} ({length})")
    handles = [lines[number] for number in range(len(runs))]
    figure.legend(handles, names, loc="outside lower center", ncols=2 if len(runs) > 1 else 1, frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")


def _draw_mfu(runs: Sequence[Run], speed: Any) -> None:
    """Model FLOPs utilisation, for a single run only, on an axis to the right of the throughput."""
    if len(runs) == 1 and not all(map(math.isnan, runs[0].columns["mfu"])):
        mfu = speed.twinx()
        mfu.plot(runs[0].steps, [100 * value for value in runs[0].columns["mfu"]], color="gray", linewidth=0.7)
        mfu.set_ylabel("MFU (%)", color="gray")


def _draw_validation(runs: Sequence[Run], loss: Any) -> None:
    """The loss of held-out samples, if a run evaluated them: a curve with points; the best point is a star."""
    for number, run in enumerate(runs):
        found = [
            (value, step) for step, value in zip(run.steps, run.columns["val_loss"], strict=True) if value == value
        ]
        if not found:
            continue
        values, steps = zip(*found, strict=True)
        best, at = min(found)
        colour = COLOURS[number % len(COLOURS)]
        style = {"color": colour, "markeredgecolor": "black", "zorder": 3}
        label = f"held-out samples, best {best:.4g} after step {at:,.0f}"
        loss.plot(steps, values, marker="o", markersize=4, linestyle="--", linewidth=1.2, label=label, **style)
        loss.plot([at], [best], marker="*", markersize=12, **style)
    if loss.get_legend_handles_labels()[1]:
        loss.legend(fontsize=8, frameon=False)


def _make_log(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers; if it has few powers of ten, also with numbers between them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log", nonpositive="mask")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:g}")
    low, high = axis.get_view_interval()
    if high / low < 30:
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.set_minor_formatter(lambda value, _: f"{value:g}")
    else:
        axis.set_minor_formatter(NullFormatter())


def shortened(name: str, limit: int = 60) -> str:
    """A path, shortened for a legend: its end says more than its beginning."""
    return name if len(name) <= limit else f"…{name[1 - limit :]}"
