"""Read a dataset as training would, and report which samples it would stop at, cut or leave out."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from mindformers_qwenvl import recipes
from mindformers_qwenvl.cli._interrupt import unwound_by_sigterm
from mindformers_qwenvl.config.yaml_keys import warnings_of
from mindformers_qwenvl.datasets.check.checker import check_file
from mindformers_qwenvl.datasets.check.findings import CheckReport, draw_histogram
from mindformers_qwenvl.datasets.check.fix import fix_file
from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.datasets.split import split_file
from mindformers_qwenvl.files import check_output, replacing

EPILOG = """examples:
  mindformers-qwenvl check-data train.json --yaml finetune_qwenvl_9.6b.yaml

  # if the YAML does not have your paths yet; every finding also goes to a file, one JSON object a line
  mindformers-qwenvl check-data train.json --yaml finetune_qwenvl_9.6b.yaml --dataset_dir coco --report found.jsonl

  # also write a copy that corrects boxes whose meaning is certain
  mindformers-qwenvl check-data train.json --yaml finetune_qwenvl_9.6b.yaml --fix-boxes fixed.json

  # hold out one record in fifty, for eval_dataset
  mindformers-qwenvl check-data train.json --yaml finetune_qwenvl_9.6b.yaml --split 0.02

Keys of the YAML that nothing reads, such as misspelt ones, are named first.

The YAML's train_dataset says what is checked: roles, max_length, modal_content_padding_size, image_overflow,
image_policy, the tokenizer. Pictures are opened and decoded. MindSpore is not needed. If matplotlib is installed, a
histogram of the lengths is drawn as well.

exit code: 0; 1 if training would stop at a sample or the file cannot be read; 2 for bad usage.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("data", type=Path, metavar="DATA.json", help="the dataset: a JSON list, or JSON Lines")
    parser.add_argument(
        "--yaml",
        required=True,
        type=Path,
        metavar="FILE",
        help="the YAML for fine-tuning, or the name of a shipped one",
    )
    parser.add_argument("--dataset_dir", metavar="DIR", help="folder of the pictures (default: the YAML's)")
    parser.add_argument("--vocab_file", metavar="FILE", help="qwen.tiktoken (default: the YAML's)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument(
        "--histogram",
        type=Path,
        metavar="OUT.png",
        help="PNG for the histogram of the lengths (default: DATA.lengths.png in the current folder)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="OUT.jsonl", help="write every finding, one JSON object per line"
    )
    parser.add_argument(
        "--fix-boxes",
        type=Path,
        metavar="OUT.json",
        help="write a copy of DATA that corrects boxes whose meaning is certain: brackets, order of corners, "
        "fractions, 1000, several boxes in one tag, tags of Qwen2-VL (OUT.jsonl for JSON Lines)",
    )
    parser.add_argument(
        "--split",
        type=float,
        metavar="SHARE",
        help="if the check finds no fault, write DATA.train.jsonl and DATA.held_out.jsonl: the latter gets this share "
        "of the records, and no picture is in both",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of --split's choice (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(usage=parser.error)


@unwound_by_sigterm()
def run(args: argparse.Namespace) -> int:
    """Check and print the report. Returns 0, or 1 if training would fail; other faults raise ValueError or OSError."""
    if args.workers < 1:
        args.usage(f"--workers must be at least 1, got {args.workers}")
    if args.split is not None and not 0 < args.split < 1:
        args.usage(f"--split must be a share above 0 and below 1, such as 0.02, got {args.split}")
    if args.histogram and args.histogram.suffix.lower() != ".png":
        args.usage(f"--histogram {args.histogram}: the name must end with .png")
    settings = read_settings(args.yaml, dataset_dir=args.dataset_dir, vocab_file=args.vocab_file)
    for line in warnings_of(args.yaml, recipes.read(recipes.find(args.yaml))):
        print(line, file=sys.stderr)
    inputs = (args.data, *recipes.chain(recipes.find(args.yaml)), settings.vocab_file)
    if args.report:
        check_output(args.report, *inputs)
    if args.histogram:
        check_output(args.histogram, *inputs, args.report)
    if args.fix_boxes:
        check_output(args.fix_boxes, *inputs, args.report, args.histogram)
    with ExitStack() as files:
        lines = files.enter_context(replacing(args.report, "w")) if args.report else None
        report = _check(args, settings, lines)
    print(report)
    _draw(report, args.histogram, Path(f"{args.data.stem}.lengths.png"))
    if args.fix_boxes:
        print(fix_file(args.data, args.fix_boxes, settings))
    if args.split is not None:
        if report.fails:
            print("not split, because training would stop at the samples above", file=sys.stderr)
        else:
            print(split_file(args.data, args.split, args.seed))
    return int(report.fails)


def _check(args: argparse.Namespace, settings, lines) -> CheckReport:
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # tqdm's thread would be copied by fork
    bar = tqdm(unit="sample", desc="checking", disable=args.quiet, mininterval=0.2)

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        return check_file(args.data, settings, workers=args.workers, lines=lines, progress=progress)
    finally:
        bar.close()


def _draw(report: CheckReport, given: Path | None, default: Path) -> None:
    path = given or default
    if not len(report.lengths):
        print(f"{path}: not drawn, because no sample could be laid out", file=sys.stderr)
        return
    try:
        with replacing(path) as file:
            draw_histogram(report.lengths, report.max_length, file)
    except ImportError:
        print(f"{path}: not drawn, matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return
    except OSError as error:
        if given:
            raise
        print(f"{path}: not drawn, it cannot be written ({error.strerror}); give --histogram", file=sys.stderr)
        return
    print(f"lengths drawn: {path}", file=sys.stderr)
