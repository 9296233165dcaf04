"""What the files of a tokenizer's folder say, the original's or ours. Plain Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.config.original import is_original, read_json
from mindformers_qwenvl.text.vocabulary import SLOT_NAMES
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary

__all__ = ["arguments_of_folder", "slots_of_folder"]

# What a tokenizer_config.json and the callers of from_pretrained say beside the arguments of the class.
NOT_ARGUMENTS = frozenset(
    (
        *("tokenizer_class", "auto_map", "added_tokens_decoder", "tokenizer_file", "name_or_path", "_from_auto"),
        *("_from_pipeline", "_commit_hash", "trust_remote_code", "cache_dir", "force_download", "resume_download"),
        *("proxies", "token", "use_auth_token", "revision", "subfolder", "local_files_only", "use_fast"),
    )
)


def slots_of_folder(folder: Path, given: Collection[str]) -> dict[str, int]:
    """`image_slots` by the model's config.json, where neither `given` nor tokenizer_config.json has one of SLOT_NAMES.

    Raises:
        ValueError: one of these files is no JSON.
    """
    if {*given, *_read_json(folder / "tokenizer_config.json")} & set(SLOT_NAMES):
        return {}
    slots = _slots_of_model(_read_json(folder / "config.json"))
    return {} if slots is None else {"image_slots": slots}


def arguments_of_folder(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the tokenizer by tokenizer_config.json, `vocab_file` among them; those in `given` go first.

    The host's way to read JSON would ask a hub for each file that is not there.

    Raises:
        FileNotFoundError: the folder has no qwen.tiktoken, and no `vocab_file` is given.
        ValueError: tokenizer_config.json is no JSON.
    """
    config = _read_json(folder / "tokenizer_config.json")
    if given.keys() & set(SLOT_NAMES):
        config = {name: value for name, value in config.items() if name not in SLOT_NAMES}
    config = {name: value for name, value in {**config, **given}.items() if name not in NOT_ARGUMENTS}
    for name, value in config.items():
        if isinstance(value, dict) and "content" in value:  # an AddedToken in JSON
            config[name] = value["content"]
    # Without a vocabulary in the folder, not the published one in its place: the ids of a small model are others.
    return {**config, "vocab_file": config.get("vocab_file") or find_vocabulary(folder)}


def _slots_of_model(config: dict[str, Any]) -> int | None:
    """Slots of an image by a model's config.json, the original's or ours."""
    part = config["visual"] if is_original(config) else config
    return next((part[name] for name in SLOT_NAMES if isinstance(part, dict) and is_whole(part.get(name))), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
