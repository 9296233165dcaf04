"""Draw a run's loss, learning rate, gradient norm and throughput as a PNG.

With `callbacks: - type: QwenVLMonitor`, training writes a row per step to OUTPUT_DIR/steps/rank_N.csv. The run may
still be going on, or it may have been killed. With several cards, their mean is drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
examples:
  mindformers-qwenvl plot output
  mindformers-qwenvl plot output --log
  mindformers-qwenvl plot run_a/output --compare run_b/output --output both.png

If a run is less than a fifth as long as another, the steps are on a logarithmic axis, so that both can be seen.

exit code: 0; 1 if the files cannot be read or matplotlib is not installed; 2 for bad usage.
"""

__all__ = ["EPILOG", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run's output_dir")
    parser.add_argument(
        "--compare", type=Path, action="append", default=[], metavar="RUN_DIR", help="another run; may be repeated"
    )
    parser.add_argument("--log", action="store_true", help="put loss and gradient norm on logarithmic axes")
    parser.add_argument("--output", type=Path, help="the PNG (default: RUN_DIR/curves.png)")
    parser.add_argument(
        "--smooth",
        type=_window,
        metavar="STEPS",
        help="steps that each point of a smoothed line is the mean of (default: 5 to 100, by the run's length)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 without matplotlib. Faults of the files are raised as OSError or ValueError."""
    from mindformers_qwenvl.training.curves import draw, read_run

    runs = [read_run(run_dir) for run_dir in (args.run_dir, *args.compare)]
    beside = args.run_dir.parent if args.run_dir.is_file() else args.run_dir
    output = args.output or beside / "curves.png"
    try:
        draw(runs, output, args.smooth, log_loss=args.log)
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
        raise argparse.ArgumentTypeError(f"at least 1 step is needed, got {steps}")
    return steps
