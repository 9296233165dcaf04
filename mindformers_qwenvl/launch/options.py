"""The options of run_mindformer.py: their names, types, and the keys of the YAML that each one sets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["OPTIONS", "PICTURES", "RUN_MODES", "Option", "add_options", "input_data", "settings"]

RUN_MODES = ("train", "finetune", "eval", "predict", "predict_with_train_model")
# Endings of the names that the script takes for pictures or videos.
PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
FILMS = (".mp4", ".avi", ".mkv")


def true_or_false(text: str) -> bool:
    """`True` or `False`, in upper or lower case."""
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"True or False is expected, got {text!r}")
    return known[text.lower()]


def truth_or_name(text: str) -> bool | str:
    """`True` or `False`, or else a name, unchanged."""
    return {"true": True, "false": False}.get(text.lower(), text)


@dataclass(frozen=True)
class Option:
    """`--name VALUE`, which sets the keys in `sets` (if there are none, the job uses the value itself)."""

    name: str
    help: str
    type: Callable[[str], Any] = str
    sets: tuple[str, ...] = ()
    metavar: str | None = None
    nargs: str | None = None
    choices: tuple[str, ...] | None = None


def _key(name: str, help: str, type: Callable[[str], Any] = str, key: str | None = None, metavar: str = "") -> Option:
    """An option that sets one key, by default the key of its own name."""
    shown = metavar or {int: "N", true_or_false: "True|False"}.get(type, "TEXT")
    return Option(name, help, type, (key or name,), shown)


OPTIONS: Mapping[str, Sequence[Option]] = {
    "what to do": (
        Option("run_mode", "train and finetune do the same", sets=("run_mode",), choices=RUN_MODES),
        _key("output_dir", "folder for checkpoints, steps and logs", metavar="DIR"),
        _key("seed", "seed of random weights and shuffling", int),
        _key("mode", "0: graph mode; 1: PyNative", int, "context.mode"),
        _key("device_target", "Ascend or CPU", key="context.device_target"),
        _key("device_id", "which card", int, "context.device_id"),
        _key("profile", "write a profile of the run", true_or_false),
    ),
    "checkpoint": (
        _key("load_checkpoint", "file or folder of weights to begin with", metavar="PATH"),
        _key(
            "resume_training",
            "resume the training that saved load_checkpoint; or the name of one of its files",
            truth_or_name,
        ),
        _key("auto_trans_ckpt", "split load_checkpoint for these cards", true_or_false),
        _key("src_strategy_path_or_dir", "strategy files of load_checkpoint, if it is split", metavar="PATH"),
        _key("transform_process_num", "processes that split it", int),
        _key("only_save_strategy", "write the strategy files and stop", true_or_false),
        Option("strategy_load_checkpoint", "strategy to load, a .ckpt file or a folder with one", metavar="PATH"),
        _key("remote_save_url", "where output files are copied to", metavar="URL"),
    ),
    "training": (
        _key("use_parallel", "one process a card, started by msrun", true_or_false),
        _key("epochs", "passes over the dataset", int, "runner_config.epochs"),
        _key("batch_size", "samples per card and step", int, "runner_config.batch_size"),
        _key("gradient_accumulation_steps", "batches per step", int, "runner_config.gradient_accumulation_steps"),
        _key("sink_mode", "keep the data queue on the card", true_or_false, "runner_config.sink_mode"),
        _key("train_dataset_dir", "dataset_dir of the data loader", key="train_dataset.data_loader.dataset_dir"),
        _key("eval_dataset_dir", "the same for evaluation", key="eval_dataset.data_loader.dataset_dir"),
        Option("num_samples", "use only this many samples of the dataset", int, metavar="N"),
        _key("do_eval", "evaluate while training", true_or_false),
    ),
    "prediction": (
        Option("predict_data", "questions: texts, or with --modal_type their parts; or a folder", nargs="+"),
        Option("modal_type", "what each part of predict_data is: image or text", nargs="+"),
        _key("predict_batch_size", "questions at a time", int),
        _key("do_sample", "draw tokens instead of taking the likeliest", true_or_false, "model.model_config.do_sample"),
        Option("adapter_id", "LoRA adapters", nargs="+"),
    ),
    "code of your own": (
        Option("register_path", "folder of the files that `auto_register:` keys name", metavar="DIR"),
        _key("trust_remote_code", "let HuggingFace tokenizers run code that comes with a model", true_or_false),
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options, in groups. Options that are not given are None."""
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for option in options:
            how = {"type": option.type, "nargs": option.nargs, "metavar": option.metavar, "choices": option.choices}
            how = {name: value for name, value in how.items() if value is not None}
            group.add_argument(f"--{option.name}", help=option.help, **how)


def settings(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Key of the YAML, such as `runner_config.epochs` -> value, for the options that were given.

    Args:
        given: option name -> value; None for those that were not given.
        config: the YAML, to see which datasets it has.

    Raises:
        FileNotFoundError: strategy_load_checkpoint is a folder without a .ckpt file.
    """
    found: dict[str, Any] = {}
    for option in (option for options in OPTIONS.values() for option in options):
        value = given.get(option.name)
        if value is not None:
            found |= dict.fromkeys(option.sets, value)
    if given.get("num_samples") is not None:
        for data_set in ("train_dataset", "eval_dataset"):
            if (config.get(data_set) or {}).get("data_loader"):
                found[f"{data_set}.data_loader.num_samples"] = given["num_samples"]
    if given.get("strategy_load_checkpoint") is not None:
        found["parallel.strategy_ckpt_load_file"] = _strategy(given["strategy_load_checkpoint"])
    return found


def _strategy(path: str) -> str:
    if not Path(path).is_dir():
        return path
    files = sorted(Path(path).glob("*.ckpt"))
    if not files:
        raise FileNotFoundError(f"--strategy_load_checkpoint {path}: there is no .ckpt file in this folder")
    return str(files[0])


def input_data(predict_data: Sequence[str] | None, modal_type: Sequence[str] | None) -> Any:
    """The input of `Trainer.predict`, as run_mindformer.py makes it from --predict_data and --modal_type.

    - With --modal_type: one question, whose parts are the words of --predict_data: [[{"image": path}, {"text": text}]].
    - A folder: the pictures in it and in its subfolders, in the order of their names.
    - Several words: a list of questions; one word: that question.

    Raises:
        ValueError: --modal_type does not fit --predict_data.
    """
    if predict_data is None:
        if modal_type is not None:
            raise ValueError("--modal_type needs --predict_data, as it says what each part of that is")
        return None
    if modal_type is not None:
        return [_parts(predict_data, modal_type)]
    if len(predict_data) > 1:
        return list(predict_data)
    (only,) = predict_data
    if Path(only).is_dir():
        return sorted(str(file) for file in Path(only).rglob("*") if file.suffix.lower() in PICTURES)
    return only.replace(r"\n", "\n")


def _parts(predict_data: Sequence[str], modal_type: Sequence[str]) -> list[dict[str, str]]:
    if len(predict_data) != len(modal_type):
        raise ValueError(
            f"--modal_type must say what each part of --predict_data is: there are {len(predict_data)} parts and "
            f"{len(modal_type)} types"
        )
    parts = []
    for part, kind in zip(predict_data, map(str.lower, modal_type), strict=True):
        endings = {"text": None, "image": PICTURES, "video": FILMS}
        if kind not in endings:
            raise ValueError(f"--modal_type {kind}: image, video or text is expected")
        if endings[kind] is not None and not part.lower().endswith(endings[kind]):
            raise ValueError(
                f"--predict_data {part}: with --modal_type {kind} the name must end with one of "
                f"{', '.join(endings[kind])}"
            )
        parts.append({kind: part})
    return parts
