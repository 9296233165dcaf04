"""Estimate the memory that each card needs for a YAML: weights, gradients, optimizer states, activations.

It calculates from the YAML: nothing is allocated, and neither MindSpore nor an accelerator is needed. For a prediction
YAML it counts weights and key/value cache. The driver, the communication library and fragmentation are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mindformers_qwenvl.checks import printable

EPILOG = """\
examples:
  mindformers-qwenvl estimate --yaml finetune_qwenvl_9.6b.yaml --device-memory 64GB
  # a YAML that comes with the package, named without its path, with one value changed
  mindformers-qwenvl estimate --yaml finetune_qwenvl_9.6b_stage2 --set parallel_config.model_parallel=4
  mindformers-qwenvl estimate --yaml predict_qwenvl_9.6b --json

Keys of the YAML that nothing reads, such as misspelt ones, are named on standard error.
exit code: 0 it fits (or no limit is given), 1 it does not fit, 2 the YAML or an option is malformed.
Without --device-memory the limit is context.max_device_memory of the YAML. A GB is 1024**3 bytes.
"""

__all__ = ["EPILOG", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--yaml",
        required=True,
        type=Path,
        metavar="FILE",
        help="a YAML, or the name of one that `mindformers-qwenvl yaml` lists",
    )
    parser.add_argument("--device-memory", metavar="SIZE", help="memory of a card, such as 64GB")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change a key, such as runner_config.batch_size=2; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, all sizes in bytes")


def run(args: argparse.Namespace) -> int:
    """0: it fits; 1: it does not fit; 2: the YAML or an option is malformed."""
    from mindformers_qwenvl.config.yaml_keys import warnings_of
    from mindformers_qwenvl.estimate import estimate, read_job
    from mindformers_qwenvl.estimate.table import render
    from mindformers_qwenvl.estimate.units import memory_size
    from mindformers_qwenvl.recipes import RecipeError, find, read

    try:
        job = read_job(find(args.yaml), args.changes)
        found = estimate(job)
        given = args.device_memory
        memory = job.device_memory if given is None else memory_size("--device-memory", given)
        said = json.dumps(found.as_dict(memory), indent=2) if args.json else render(found, memory)
    except OverflowError:
        print(f"mindformers-qwenvl estimate: {args.yaml}: a number in it is too large to compute with", file=sys.stderr)
        return 2
    except (RecipeError, OSError) as error:
        print(printable(f"mindformers-qwenvl estimate: {error}"), file=sys.stderr)
        return 2
    for line in warnings_of(args.yaml, read(find(args.yaml), args.changes)):
        print(line, file=sys.stderr)
    print(said)
    return 0 if memory is None or found.total <= memory else 1
