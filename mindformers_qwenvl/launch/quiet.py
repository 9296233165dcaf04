"""The host writes hundreds of lines, from Python and from C++. They go to a file; the terminal keeps what matters."""

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
    """Where a user looks: `out` for results, `err` for progress and errors. `log` has all else; None: nothing is kept
    away from the screen. `shows`: whether this process is the one that reports, of several."""

    out: TextIO
    err: TextIO
    log: Path | None
    shows: bool

    def say(self, text: str) -> None:
        """A line of progress, of the process that reports."""
        if self.shows:
            print(text, file=self.err, flush=True)


def rank() -> int | None:
    """Of this process under msrun; 0 without it, None for msrun's scheduler, which runs the command as well."""
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
    """Send what this process and its children write to `log`, which is appended to, for as long as the process lives:
    MindSpore still writes while it ends. The screen that is returned, and Python's own streams, lead past that.

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
    # Loggers hold the streams they find when they are made, so these must be the file before the host is imported.
    sys.stdout = sys.stderr = file
    return screen


def verbose() -> Screen:
    """Everything stays on the terminal."""
    return Screen(sys.stdout, sys.stderr, None, rank() == 0)


def released(screen: Screen, action: Callable[[], int]) -> int:
    """Run `action`, then give Python's streams back to the terminal, for what is said after it."""
    try:
        return action()
    finally:
        sys.stdout, sys.stderr = screen.out, screen.err


def _kept(descriptor: int) -> TextIO:
    return os.fdopen(os.dup(descriptor), "w", buffering=1, encoding="utf-8", errors="replace")
