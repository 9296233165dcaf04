"""Reads a tokenizer from a folder, the original's or ours, and writes it into one. Plain Python."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.config.keys import HUB
from mindformers_qwenvl.config.original import read_object
from mindformers_qwenvl.data.model_folder import own_vocabulary, tokenizer_section
from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.text.vocabulary import SLOT_NAMES
from mindformers_qwenvl.text.vocabulary_file import FILE_NAME

__all__ = ["TokenizerFiles"]

# Keys of tokenizer_config.json and of callers of from_pretrained that are not arguments of the class.
NOT_ARGUMENTS = frozenset(
    ("tokenizer_class", "auto_map", "added_tokens_decoder", "tokenizer_file", "name_or_path", *HUB)
)


class TokenizerFiles:
    """A base class for `QwenVLTokenizer`, before the host's: reading and writing the files of a tokenizer."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, *args, **kwargs) -> TokenizerFiles:
        """A tokenizer from a folder: one of ours (`save_pretrained`), or an original HuggingFace one.

        If nothing else says how many slots an image has, the model's config.json does (`visual.n_queries`).
        A vocabulary outside the folder that one of its files names is not used, see model_folder.py.

        Raises:
            FileNotFoundError: the folder has no qwen.tiktoken, and no `vocab_file` is given.
        """
        folder = Path(kwargs.pop("pretrained_model_name_or_path", None) or name_or_path)
        if folder.is_dir():
            settings = _arguments_of_folder(folder, kwargs, cls.known_arguments())
            return cls(settings.pop("vocab_file"), *args, **settings)
        return super().from_pretrained(str(folder), *args, **kwargs)

    @classmethod
    def read_files_according_specific_by_tokenizer(cls, name_or_path):
        """The host's, for a folder with a YAML; the original's class name in it means this class."""
        vocab_files, files = super().read_files_according_specific_by_tokenizer(name_or_path)
        for content in files.values():
            content["tokenizer_class"] = cls.__name__
        return vocab_files, files

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        save_name: str = "mindspore_model",
        file_format: str = "json",
        save_json: bool = False,
        **kwargs,
    ) -> None:
        """Write tokenizer_config.json, special_tokens_map.json and qwen.tiktoken (byte for byte what was read).

        Args:
            save_directory: created if it does not exist.
            save_name, file_format: "yaml" also writes the host's `save_name`.yaml. It is not the default, because a
                YAML in a folder makes MindFormers overlook its config.json.
            save_json: accepted; the JSON files are written in any case.
            **kwargs: `filename_prefix`.
        """
        if file_format not in ("json", "yaml"):
            raise ValueError(f"file_format must be 'json' or 'yaml', got {file_format!r}")
        super().save_pretrained(str(save_directory), save_json=True, **kwargs)
        if file_format == "yaml":
            self.save_origin_pretrained(str(save_directory), save_name, file_format)

    def save_vocabulary(self, save_directory: str | os.PathLike, filename_prefix: str | None = None) -> tuple[str]:
        """Write qwen.tiktoken, byte for byte what was read."""
        path = Path(save_directory) / (f"{filename_prefix}-{FILE_NAME}" if filename_prefix else FILE_NAME)
        with replacing(path) as file:
            file.write(self.vocabulary.source)
        return (str(path),)


def _arguments_of_folder(folder: Path, given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Arguments of the tokenizer from tokenizer_config.json or a YAML of the folder, and `vocab_file`; those in `given`
    take precedence.

    The host's own reader would ask a hub for each file that is missing.

    Raises:
        FileNotFoundError: the folder has no qwen.tiktoken, and no `vocab_file` is given.
        ValueError: tokenizer_config.json, config.json or a YAML cannot be read.
    """
    config = {**_object_if_there(folder / "tokenizer_config.json"), **tokenizer_section(folder)}
    if given.keys() & set(SLOT_NAMES):
        config = {name: value for name, value in config.items() if name not in SLOT_NAMES}
    elif not config.keys() & set(SLOT_NAMES) and (slots := _slots_of_model(_object_if_there(folder / "config.json"))):
        config["image_slots"] = slots
    config = {name: value for name, value in config.items() if name in known}  # JSON of other programs has more
    named = config.pop("vocab_file", None)
    config = {name: value for name, value in {**config, **given}.items() if name not in NOT_ARGUMENTS}
    for name, value in config.items():
        if isinstance(value, dict) and "content" in value:  # an AddedToken in JSON
            config[name] = value["content"]
    return {**config, "vocab_file": config.get("vocab_file") or own_vocabulary(folder, named)}


def _slots_of_model(config: dict[str, Any]) -> int | None:
    """Slots of an image by a model's config.json, the original's or ours."""
    for part in (config, config.get("visual"), config.get("vision_config"), config.get("vision_model")):
        for name in SLOT_NAMES:
            if isinstance(part, dict) and is_whole(part.get(name)):
                return part[name]
    return None


def _object_if_there(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}
