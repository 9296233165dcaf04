"""Check whether this machine can run Qwen-VL: versions, plugin, a tiny training and an answer.

The first thing to run on a new machine, and the report to send with a question. `--device` also compares the fused
operators of an accelerator with the plain forms.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

EPILOG = """examples:
  mindformers-qwenvl doctor
  mindformers-qwenvl doctor --device              # on Ascend: the fused operators against the plain forms
  mindformers-qwenvl doctor --no-trial --yaml finetune.yaml      # find misspelt keys of a YAML
  mindformers-qwenvl doctor --json > doctor.json

states: ok; warning: something is left out or unusual; failed: it will not work; not checked: says why

exit code: 0 if nothing failed (warnings do not count), 1 if something failed, 2 for bad usage.
"""

__all__ = ["EPILOG", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--json", action="store_true", help="the findings as JSON, for programs")
    parser.add_argument(
        "--device", action="store_true", help="compare the device's fused operators with the plain forms of a CPU"
    )
    parser.add_argument(
        "--build", action="store_true", help="compile the operators for decoding on a CPU now, not at the first answer"
    )
    parser.add_argument(
        "--yaml",
        type=Path,
        metavar="FILE",
        help="also look for keys of this YAML that nothing reads",
    )
    parser.add_argument("--no-trial", action="store_true", help="leave out the training and the answer (half a minute)")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if something is wrong."""
    from mindformers_qwenvl import __version__
    from mindformers_qwenvl.doctor import examine
    from mindformers_qwenvl.doctor.findings import as_dict, failed, render

    def say(what: str) -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)

    found = examine.examine(trial=not args.no_trial, device=args.device, say=say, build=args.build, yaml=args.yaml)
    print(
        json.dumps(as_dict(__version__, found), indent=2, ensure_ascii=False)
        if args.json
        else render(__version__, found)
    )
    return int(failed(found))
