"""A progress bar with step, loss, learning rate, tokens/s and the time left."""

from __future__ import annotations

import os
import time
from typing import Any, TextIO

from tqdm import tqdm

from mindformers_qwenvl.launch.quiet import Screen
from mindformers_qwenvl.training.monitor import QwenVLMonitor

__all__ = ["Progress"]

COLUMNS = 80
SECONDS = 10.0  # between two lines if there is no terminal, as in the logs of msrun
# The bar and what the lines say: with long numbers it still fits into 80 columns.
BAR = "{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt}{postfix}, {remaining} left"


class Progress(QwenVLMonitor):
    """The measurements of `QwenVLMonitor`, on the screen of the first process that has the loss.

    On a terminal it is a bar; elsewhere a line every ten seconds, and one for the last step.

    Args:
        screen: where to show it.
        seconds: time between two lines.
    """

    def __init__(self, screen: Screen, seconds: float = SECONDS):
        super().__init__(per_print_times=0, csv=False)
        self.writer = None  # the YAML's own callbacks write to TensorBoard
        self.screen, self.seconds = screen, seconds
        self.bar: tqdm | None = None
        self.total = 0
        self.first: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self.said = self.started = 0.0

    def on_train_begin(self, run_context: Any) -> None:
        """The first step compiles the graph, which takes a while."""
        if self.reports():
            self.screen.say("compiling the graph; the first step takes longest")

    def _show(self, row: dict[str, Any], params: Any) -> None:
        if self.first is None:
            self.first, self.started = row, time.perf_counter()
        self.last = row
        if not self.reports():
            return
        self.total = self.total or _total(params, row["step"])
        if self.screen.err.isatty():
            self._draw(row)
        elif time.perf_counter() - self.said >= self.seconds or row["step"] >= self.total:
            self.said = time.perf_counter()
            print(self._line(row), file=self.screen.err, flush=True)

    def _draw(self, row: dict[str, Any]) -> None:
        if self.bar is None:
            # It begins after the first step, which compiles and so says nothing about the time of the others.
            self.bar = tqdm(
                total=self.total,
                initial=row["step"],
                file=self.screen.err,
                bar_format=BAR,
                **_width(self.screen.err),
            )
        self.bar.set_postfix_str(_numbers(row), refresh=False)
        self.bar.update(row["step"] - self.bar.n)

    def _line(self, row: dict[str, Any]) -> str:
        line = f"step {row['step']}/{self.total}, {_numbers(row)}"
        steps = row["step"] - self.first["step"]
        if steps:  # the first one, which compiles, says nothing about the others
            left = (self.total - row["step"]) * (time.perf_counter() - self.started) / steps
            line += f", {tqdm.format_interval(left)} left"
        return line

    def close(self) -> None:
        """End the bar; its last state stays on the screen."""
        if self.bar is not None:
            self.bar.close()


def _total(params: Any, step: int) -> int:
    """The number of the training's last step, computed after the first step of this run."""
    # In a resumed run, params.epoch_num and cur_step_num count from where it resumes. cur_epoch_num does not, and is of
    # no use here.
    in_this = (step - 1) % params.batch_num + 1
    return step + (params.epoch_num - 1) * params.batch_num + params.batch_num - in_this


def _width(terminal: TextIO) -> dict[str, Any]:
    """Columns of the bar. A terminal whose size was never set reports 0, and then tqdm would show nothing at all."""
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except OSError:
        columns = 0
    return {"dynamic_ncols": True} if columns else {"ncols": COLUMNS}


def _numbers(row: dict[str, Any]) -> str:
    formats = {"loss": "loss {:.4f}", "learning_rate": "lr {:.2e}", "tokens_per_s": "{:,.0f} tokens/s"}
    return ", ".join(text.format(row[name]) for name, text in formats.items() if row.get(name) is not None)
