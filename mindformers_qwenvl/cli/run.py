"""Fine-tune, resume, predict or evaluate with a YAML, as run_mindformer.py does, without a MindFormers checkout."""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_qwenvl.launch import job, quiet
from mindformers_qwenvl.launch.options import add_options

EPILOG = """examples:
  mindformers-qwenvl run --config finetune_qwenvl_9.6b_bf16.yaml --load_checkpoint weights

  # a YAML that comes with the package, named without its path, with two keys changed
  mindformers-qwenvl run --config finetune_qwenvl_tiny --epochs 1 --set optimizer.weight_decay=0.1

  # resume where it stopped
  mindformers-qwenvl run --config finetune.yaml --load_checkpoint output/checkpoint --resume_training True

  mindformers-qwenvl run --config predict_qwenvl_9.6b --load_checkpoint weights \\
      --predict_data dog.jpg "What is in the picture?" --modal_type image text

  # several processes, one a card
  msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=output/msrun_log \\
      python -m mindformers_qwenvl run --config finetune.yaml --use_parallel True

The options are those of run_mindformer.py; --config is looked for in the current folder. Training shows a bar;
everything that MindFormers and MindSpore write goes to OUTPUT_DIR/run/rank_N.log. Answers go to standard output.

exit code: 0; 1 if the run failed (the message begins with the cause); 2 for bad usage.
"""

__all__ = ["EPILOG", "NEEDS_HOST", "add_arguments", "run"]

NEEDS_HOST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of run_mindformer.py, `--set` and `--verbose`."""
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="a YAML, or the name of a shipped one"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="change a key of the YAML, such as runner_config.batch_size=2; may be repeated",
    )
    parser.add_argument(
        "--options", action="extend", nargs="+", metavar="KEY=VALUE", dest="changes", help="the same for several keys"
    )
    parser.add_argument("--verbose", action="store_true", help="show everything that MindFormers writes")
    add_options(parser)
    parser.set_defaults(usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 1 if the run failed; a faulty YAML or option exits with 2."""
    try:
        todo = job.read(args.config, vars(args), args.changes)
    except (OSError, ValueError) as error:
        args.usage(str(error))
    screen = quiet.verbose() if args.verbose else quiet.quiet(quiet.log_file(todo.output_dir))
    return quiet.released(screen, lambda: job.work(todo, screen))
