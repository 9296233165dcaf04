"""The host writes hundreds of lines, from Python and C++. They go to a file; the terminal gets only what matters."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

__all__ = ["Screen", "log_file", "quiet", "rank", "verbose"]


@dataclass
class Screen:
    """Where a user looks: `out` for results, `err` for progress and errors. `log` gets all else; None: the screen gets
    everything. `shows`: whether this process is the one of several that reports."""

    out: TextIO
    err: TextIO
    log: Path | None
    shows: bool

    def say(self, text: str) -> None:
        """Write a line of progress, if this process is the one that reports."""
        if self.shows:
            print(text, file=self.err, flush=True)


def rank() -> int | None:
    """The rank of this process under msrun; 0 without it; None for msrun's scheduler, which runs the command, too."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return None
    number = os.environ.get("RANK_ID", "0")
    return int(number) if number.isdigit() else 0


def log_file(output_dir: str | os.PathLike[str]) -> Path:
    """`OUTPUT_DIR/run/rank_N.log` of this process."""
    number = rank()
    name = "scheduler" if number is None else f"rank_{number}"
    return Path(output_dir).expanduser().absolute() / "run" / f"{name}.log"


def quiet(log: Path) -> Screen:
    """Append what this process and its children write to `log`, until the process ends: MindSpore still writes at exit.
    Only the `Screen` that is returned still writes to the terminal.

    Raises:
        OSError: `log` cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("a", encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    screen = Screen(_kept(1), _kept(2), log, rank() == 0)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    # Loggers keep the streams that they find when they are made, so set these to the file before importing the host.
    sys.stdout = sys.stderr = file
    return screen


def verbose() -> Screen:
    """Everything stays on the terminal."""
    return Screen(sys.stdout, sys.stderr, None, rank() == 0)


def released(screen: Screen, action: Callable[[], int]) -> int:
    """Run `action`, then connect Python's streams to the terminal again, for messages after it."""
    try:
        return action()
    finally:
        sys.stdout, sys.stderr = screen.out, screen.err


def _kept(descriptor: int) -> TextIO:
    return os.fdopen(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="replace")
