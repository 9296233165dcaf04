"""What the kills of a command led to, and what it left in its folder."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.golden import golden_set, write_checkpoint

A56 = golden_set("a56")
HANGS = 600.0  # seconds of a run; a busy machine may stand still for a while
HEADER = "| command | kills | before it wrote | after | unfinished file | runs compared | faults | minutes |"


@dataclass
class Killed:
    """The kills of a command, and the runs that went on after them to the end.

    Attributes:
        early: kills before the run had written anything.
        begun: kills after it had.
        unfinished: how many of these left a file that was being written, under its temporary name.
        same: runs that went on to the end, with the result of one that was not killed.
    """

    name: str
    kills: int = 0
    early: int = 0
    begun: int = 0
    unfinished: int = 0
    same: int = 0
    faults: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def count(self, wrote: bool, unfinished: bool) -> None:
        """One kill; the row so far goes to stderr, for the minutes that many take."""
        self.kills += 1
        self.early += not wrote
        self.begun += wrote
        self.unfinished += unfinished
        print(self.row(), file=sys.stderr, flush=True)

    def row(self) -> str:
        counts = (self.kills, self.early, self.begun, self.unfinished, self.same, len(self.faults))
        minutes = f"{(time.monotonic() - self.started) / 60:.1f}"
        return f"| {' | '.join((self.name, *map(str, counts), minutes))} |"


def content(folder: Path) -> dict[str, bytes]:
    """Path in `folder` -> bytes of each file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one_layer_model(folder: Path) -> Path:
    """Set a56 with one layer of each kind, in the original's layout: the smallest network that takes the whole way."""
    config = {**A56.config, "num_hidden_layers": 1, "visual": {**A56.config["visual"], "layers": 1}}
    return write_checkpoint("a56", folder, shards=1, config=config)
