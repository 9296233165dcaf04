"""Convert Qwen-VL weights between the original HuggingFace layout and MindFormers, both ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindformers_qwenvl.checks import byte_count
from mindformers_qwenvl.cli._interrupt import unwound_by_sigterm
from mindformers_qwenvl.weights.convert.convert import DEFAULT_SHARD, Progress, convert
from mindformers_qwenvl.weights.convert.dtypes import CODES

EPILOG = """examples:
  # one file for `load_checkpoint:` in a YAML
  mindformers-qwenvl convert-weight --model qwenvl --input_path Qwen-VL-Chat --output_path qwenvl.ckpt --dtype fp16

  # a folder of shards (needs neither MindSpore nor much memory)
  mindformers-qwenvl convert-weight --input_path Qwen-VL-Chat --output_path qwenvl_ms --dtype bf16 --verify

  # a finetuned checkpoint back to the original layout
  mindformers-qwenvl convert-weight --reverse --input_path finetuned.ckpt --config Qwen-VL-Chat --output_path mine

  # a checkpoint of the Qwen-VL in MindFormers' own tree (up to 1.5)
  mindformers-qwenvl convert-weight --input_path old.ckpt --config Qwen-VL-Chat --output_path new.ckpt

  # the last step of a training on many cards, as one checkpoint or back in the original layout
  mindformers-qwenvl convert-weight --input_path output/checkpoint --config Qwen-VL-Chat --output_path one.safetensors
  mindformers-qwenvl convert-weight --reverse --input_path output/checkpoint --strategy output/strategy \\
      --config Qwen-VL-Chat --output_path mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command. The first four are those of MindFormers' own convert_weight.py."""
    parser.add_argument("--model", choices=["qwenvl"], default="qwenvl", help="the model (default: qwenvl)")
    parser.add_argument(
        "--input_path",
        required=True,
        type=Path,
        metavar="PATH",
        help="original HuggingFace folder (safetensors or .bin shards) or file; with --reverse, one of ours; or the "
        "folder with the rank_* folders of a training; or a checkpoint of the Qwen-VL in MindFormers' tree (up to 1.5)",
    )
    parser.add_argument(
        "--output_path",
        required=True,
        type=Path,
        metavar="PATH",
        help="OUT.safetensors, OUT.ckpt, or a folder for safetensors shards with an index",
    )
    parser.add_argument("--dtype", choices=list(CODES), help="dtype of the result (default: each tensor keeps its own)")
    parser.add_argument(
        "--reverse", "--reversed", action="store_true", help="from MindFormers back to the original layout"
    )
    parser.add_argument("--verify", action="store_true", help="read the result back and compare it with the source")
    parser.add_argument(
        "--max_shard_size",
        default=str(DEFAULT_SHARD),
        metavar="SIZE",
        help="largest size of a shard when the output is a folder: 5GB (default), 500MB, 2GiB ...",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="the original config.json, or its folder, if it is not beside the input",
    )
    parser.add_argument(
        "--strategy",
        type=Path,
        metavar="PATH",
        help="for rank_* folders: MindSpore's strategy file, or the folder of them (default: the folder `strategy` "
        "beside the checkpoint, if there is one)",
    )


@unwound_by_sigterm()
def run(args: argparse.Namespace) -> int:
    """Convert, print the report; returns 0. Errors in the input are raised as ValueError or OSError."""
    report = convert(
        args.input_path,
        args.output_path,
        dtype=args.dtype,
        reverse=args.reverse,
        verify=args.verify,
        max_shard_size=byte_count("--max_shard_size", args.max_shard_size),
        config=args.config,
        strategy=args.strategy,
        progress=_progress_bar,
    )
    print(report, file=sys.stderr if report.overflow or report.later else sys.stdout)
    return 0


def _progress_bar(total: int) -> Progress:
    from tqdm import tqdm

    bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1000, desc="converting", mininterval=0.2)

    def tick(name: str, count: int) -> None:
        bar.set_postfix_str(name.rpartition("transformer.")[2][-40:], refresh=False)
        bar.update(count)
        if bar.n >= total:
            bar.close()

    return tick
