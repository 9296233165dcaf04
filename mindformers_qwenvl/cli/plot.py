"""Draw a run's loss, learning rate, gradient norm and throughput as a PNG.

A training writes them with `callbacks: - type: QwenVLMonitor` to OUTPUT_DIR/steps/rank_N.csv, a row a step; the run may
still be going on, or have been killed. Of several cards the mean is drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
examples:
  mindformers-qwenvl plot output
  mindformers-qwenvl plot run_a/output --compare run_b/output --output both.png
"""

__all__ = ["EPILOG", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run's output_dir")
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], metavar="RUN_DIR", help="another run; may be repeated"
    )
    parser.add_argument("--output", type=Path, help="the PNG (default: RUN_DIR/curves.png)")
    parser.add_argument("--smooth", type=_window, metavar="STEPS", help="mean of so many steps (default: by length)")


def run(args: argparse.Namespace) -> int:
    """0: drawn; 1: no matplotlib (the faults of the files are errors that `main` reports)."""
    from mindformers_qwenvl.training.curves import draw, read_run

    runs = [read_run(run_dir) for run_dir in (args.run_dir, *args.compare)]
    beside = args.run_dir.parent if args.run_dir.is_file() else args.run_dir
    output = args.output or beside / "curves.png"
    try:
        draw(runs, output, args.smooth)
    except ImportError as error:
        print(f"mindformers-qwenvl plot: {error}", file=sys.stderr)
        return 1
    for found in runs:
        last = found.columns["loss"][-1]
        print(f"{found.name}: {len(found.steps)} steps, {found.steps[0]:.0f} to {found.steps[-1]:.0f}, loss {last:.4f}")
    print(output)
    return 0


def _window(text: str) -> int:
    steps = int(text)
    if steps < 1:
        raise argparse.ArgumentTypeError(f"1 step at least, got {steps}")
    return steps
