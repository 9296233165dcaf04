"""The files beside the weights in the original's directory, for a model that has only a YAML."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_qwenvl.config.original import original_settings
from mindformers_qwenvl.files import read_json
from mindformers_qwenvl.text.vocabulary_file import (
    IMAGE_START_OFFSET,
    PUBLISHED_IMAGE_START,
    check_file,
    find_vocabulary,
)

__all__ = ["TrainedModel", "complete", "write_companions"]


class TrainedModel:
    """What a YAML says about the model that was trained with it.

    Attributes:
        config: the original's config.json.
        pet_config: that of a training with an adapter, or None.
        vocabulary: its vocabulary file.
        facts: texts for the model card, by heading.
    """

    def __init__(self, path: Path):
        """Read the YAML at `path`, with the settings it is based on (`base_config`).

        Raises:
            FileNotFoundError: there is no such file, or no vocabulary.
            ValueError: its model is not a Qwen-VL, or its vocabulary belongs to another model.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; expected the YAML of a training")
        from mindformers.tools.register import MindFormerConfig

        from mindformers_qwenvl.config import QwenVLConfig

        yaml = MindFormerConfig(str(path))
        model = dict((yaml.get("model") or {}).get("model_config") or {})
        if model.pop("type", None) != "QwenVLConfig":
            raise ValueError(f"{path}: expected model.model_config.type: QwenVLConfig, the YAML of a Qwen-VL")
        for word in ("checkpoint_name_or_path", "parallel_config"):
            model.pop(word, None)
        pet_config = model.pop("pet_config", None)
        self.pet_config = dict(pet_config) if pet_config else None
        self.config = original_settings(QwenVLConfig(**model))
        self.yaml = path
        self.output_dir = Path(yaml.get("output_dir") or "./output")
        self.vocabulary = _vocabulary(yaml)
        check_file(self.vocabulary, self.config["visual"]["image_start_id"], f"the model of {path}")
        self.facts = _facts(yaml)


def _vocabulary(yaml: Mapping[str, Any]) -> Path:
    for section in ("train_dataset", "processor", "eval_dataset"):
        given = ((yaml.get(section) or {}).get("tokenizer") or {}).get("vocab_file")
        if given and Path(given).is_file():
            return Path(given)
    return find_vocabulary()


def _facts(yaml: Mapping[str, Any]) -> dict[str, str]:
    loader = (yaml.get("train_dataset") or {}).get("data_loader") or {}
    optimizer, schedule = yaml.get("optimizer") or {}, yaml.get("lr_schedule") or {}
    rate = schedule.get("learning_rate") or optimizer.get("learning_rate")
    runner = yaml.get("runner_config") or {}
    facts = {
        "Base": yaml.get("load_checkpoint") or "none: trained from random weights",
        "Data": loader.get("annotation_file"),
        "Epochs": runner.get("epochs"),
        "Batch": runner.get("batch_size"),
        "Learning rate": rate,
    }
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}


def write_companions(model: TrainedModel, folder: Path) -> None:
    """config.json, generation_config.json, tokenizer_config.json and the vocabulary, into `folder`."""
    (folder / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(model.vocabulary, folder / "qwen.tiktoken")
    complete(folder)


def complete(folder: Path) -> None:
    """Add the files that `folder`, a Qwen-VL with its config.json, lacks to be opened: the settings of generation and
    tokenizer, and the vocabulary if it is the published one and is installed."""
    try:
        config = read_json(folder / "config.json")
        end_of_text = config["visual"]["image_start_id"] - IMAGE_START_OFFSET
        length = config.get("max_position_embeddings", 8192)
    except (OSError, ValueError, KeyError, TypeError):
        return
    generation = {
        "chat_format": "chatml",
        "do_sample": True,
        "eos_token_id": end_of_text,
        "max_new_tokens": 512,
        "max_window_size": max(1, length * 3 // 4),
        "pad_token_id": end_of_text,
        "top_k": 0,
        "top_p": 0.3,
        "transformers_version": "4.31.0",
    }
    tokenizer = {
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
        "model_max_length": length,
        "tokenizer_class": "QWenTokenizer",
    }
    for name, content in {"generation_config": generation, "tokenizer_config": tokenizer}.items():
        if not (folder / f"{name}.json").exists():
            (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not (folder / "qwen.tiktoken").exists() and end_of_text + IMAGE_START_OFFSET == PUBLISHED_IMAGE_START:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(find_vocabulary(), folder / "qwen.tiktoken")
