"""Convert Qwen-VL weights between the original HuggingFace layout and MindFormers, both ways."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import byte_count, printable
from mindformers_qwenvl.cli._interrupt import unwound_by_sigterm
from mindformers_qwenvl.config.original import read_original
from mindformers_qwenvl.files import read_json
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

  # merge a LoRA adapter of peft, ms-swift or LLaMA-Factory into its base model (Int4, too), in the original layout
  mindformers-qwenvl convert-weight --reverse --input_path Qwen-VL-Chat --adapter my_adapter --output_path merged

  # a model trained from a YAML, as a complete folder: config.json, weights, tokenizer, model card
  mindformers-qwenvl convert-weight --reverse --input_path output/checkpoint --config my.yaml --output_path mine

  # the adapter of a checkpoint, or one of MindFormers' own LoRA, in peft's format
  mindformers-qwenvl convert-weight --adapter_only --input_path output/checkpoint --config my.yaml --output_path adapter
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command. The first four are those of MindFormers' own convert_weight.py."""
    parser.add_argument("--model", choices=["qwenvl"], default="qwenvl", help="the model (default: qwenvl)")
    parser.add_argument(
        "--input_path",
        required=True,
        type=Path,
        metavar="PATH",
        help="original HuggingFace folder (safetensors or .bin shards) or file; with --reverse, one of ours; or a "
        "training's folder of rank_* folders; or a checkpoint of the Qwen-VL in MindFormers' own tree (up to 1.5)",
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
        help="the original config.json, or its folder, if it is not beside the input; or the YAML of a training, from "
        "which config.json is made",
    )
    parser.add_argument(
        "--adapter", type=Path, metavar="DIR", help="merge this LoRA adapter, in peft's format, into the weights"
    )
    parser.add_argument(
        "--adapter_only",
        action="store_true",
        help="write only the adapter, in peft's format; the input is a checkpoint or an adapter",
    )
    parser.add_argument(
        "--strategy",
        type=Path,
        metavar="PATH",
        help="for rank_* folders: MindSpore's strategy file, or the folder of strategy files (default: the folder "
        "`strategy` beside the checkpoint, if there is one)",
    )


@unwound_by_sigterm()
def run(args: argparse.Namespace) -> int:
    """Convert, print the report; returns 0. Errors in the input are raised as ValueError or OSError."""
    from mindformers_qwenvl.adapters.convert import Merging
    from mindformers_qwenvl.adapters.handover import complete
    from mindformers_qwenvl.adapters.settings import from_pet_config

    with tempfile.TemporaryDirectory() as made, ExitStack() as bars:
        trained = _trained(args.config, Path(made))
        config = Path(made) if trained else args.config
        settings = from_pet_config(trained.pet_config) if trained and trained.pet_config else None
        if args.adapter_only:
            return _export(args, config, settings)
        merging = Merging(args.adapter, settings)
        report = convert(
            args.input_path,
            args.output_path,
            dtype=args.dtype,
            reverse=args.reverse,
            verify=args.verify,
            max_shard_size=byte_count("--max_shard_size", args.max_shard_size),
            config=config,
            strategy=args.strategy,
            overlay=merging,
            progress=lambda total: _progress_bar(total, bars),
        )
    lines = merging.lines()
    if args.output_path.is_dir():
        complete(args.output_path)
        _write_beside(args, trained, merging)
    warns = report.overflow or report.not_finite or report.later or merging.warnings
    print("\n".join([str(report), *lines]), file=sys.stderr if warns else sys.stdout)
    return 0


def _trained(config: Path | None, folder: Path) -> Any:
    """The training that `--config` describes, if it is a YAML; then config.json and its companions go to `folder`."""
    if config is None or config.suffix not in (".yaml", ".yml"):
        return None
    from mindformers_qwenvl.adapters.handover import TrainedModel, write_companions
    from mindformers_qwenvl.cli._generation import import_host

    import_host()
    model = TrainedModel(config)
    write_companions(model, folder)
    return model


def _export(args: argparse.Namespace, config: Path | None, settings: Any) -> int:
    from mindformers_qwenvl.adapters.convert import export_adapter

    original = read_original(config if config is not None else args.input_path)
    written, count = export_adapter(args.input_path, args.output_path, original, settings, args.strategy)
    print(f"wrote    {count} tensors, rank {written.rank}, alpha {written.alpha:g}: {args.output_path}")
    return 0


def _write_beside(args: argparse.Namespace, trained: Any, merging: Any) -> None:
    """Write the model card, and how much an adapter changed the weights."""
    from mindformers_qwenvl.adapters.card import model_card, write_card
    from mindformers_qwenvl.adapters.convert import write_sizes

    facts = {}
    if trained is not None:
        facts |= trained.facts | _last_step(trained.output_dir)
    if merging.merged is not None:
        adapter = merging.merged.adapter
        facts["Base"] = facts.get("Base") or str(args.input_path)
        facts["Adapter"] = f"{adapter.path} (rank {adapter.settings.rank}, alpha {adapter.settings.alpha:g}), merged"
        write_sizes(args.output_path, merging)
    if facts and args.reverse:
        write_card(args.output_path, model_card(args.output_path.resolve().name, facts, args.dtype))


def _last_step(output_dir: Path) -> dict[str, str]:
    """Steps and loss of the training, and its evaluation, if they were recorded in `output_dir`."""
    from mindformers_qwenvl.training.steps_file import read_steps

    facts = {}
    files = sorted((output_dir / "steps").glob("rank_*.csv"))
    if files and (rows := read_steps(files[-1])):
        facts = {"Steps": str(int(rows[-1]["step"])), "Loss": f"{rows[-1]['loss']:.4f} at the last step"}
    for file in sorted(output_dir.glob("eval*/*.json"))[:8]:
        try:
            score = read_json(file).get("score")
        except (OSError, ValueError, AttributeError):
            continue
        if score is not None:
            facts[f"Evaluation, {file.parent.name}"] = str(score)
    return facts


def _progress_bar(total: int, bars: ExitStack) -> Progress:
    from tqdm import tqdm

    bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1000, desc="converting", mininterval=0.2)
    bars.callback(bar.close)  # so that an error gets a line of its own

    def tick(name: str, count: int) -> None:
        bar.set_postfix_str(printable(name).rpartition("transformer.")[2][-40:], refresh=False)
        bar.update(count)
        if bar.n >= total:
            bar.close()

    return tick
