"""Checks of what the command line names, before MindSpore is imported: a wrong name fails at once.

Plain Python and Pillow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mindformers_qwenvl.adapters.settings import CONFIG_FILE
from mindformers_qwenvl.config.original import is_original, read_object
from mindformers_qwenvl.pictures.images import start_image
from mindformers_qwenvl.pictures.sources import decode_data_uri, is_data_uri, is_web_address
from mindformers_qwenvl.text.vocabulary_file import FILE_NAME, check_file
from mindformers_qwenvl.weights.formats import ENDINGS

__all__ = ["check_model_folder", "check_pictures", "in_options"]

# The YAML key that a refusal names, and the option that a command has instead.
OPTIONS = (
    (re.compile(r"image_policy: \{allow_private: \['([^']*)'\]\} allows it"), r"--allow-private \1 allows it"),
    (re.compile(r"add (\S+) to image_policy: \{allow_hosts: \[\.\.\.\]\}"), r"--allow-host \1 allows it"),
    (
        re.compile(r"image_policy: \{allow_folders: \[[^\]]*\]\} or \{allow_outside: true\} allows it"),
        "--allow-outside allows it",
    ),
)


def check_model_folder(model: Path, *adapters: Path) -> None:
    """Refuse a --model that is not a model's folder, and an --adapter that does not exist.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks configuration, weights or vocabulary.
        ValueError: it is an adapter or another kind of model, or its vocabulary belongs to another model.
    """
    if not model.is_dir():
        what = "is a file; a model's folder is expected" if model.exists() else "no such directory"
        raise FileNotFoundError(f"--model {model}: {what}")
    for adapter in adapters:
        if not adapter.exists():
            raise FileNotFoundError(f"--adapter {adapter}: no such directory")
    config = model / "config.json"
    if not config.is_file():
        if (model / CONFIG_FILE).is_file():
            raise ValueError(
                f"--model {model} is a LoRA adapter, not a model: give the model that it was trained on, and "
                f"--adapter {model}; or merge them with `mindformers-qwenvl convert-weight --adapter {model}`"
            )
        if not any(model.glob("*.yaml")):
            raise FileNotFoundError(f"--model {model}: there is no config.json in this folder")
        return
    settings = read_object(config)
    visual = settings.get("visual")
    if not is_original(settings) and settings.get("model_type") != "qwenvl":
        raise ValueError(
            f"--model {model}: config.json is not that of a Qwen-VL (model_type {settings.get('model_type')!r})"
        )
    if not any(file.suffix in ENDINGS for file in model.iterdir()):
        raise FileNotFoundError(f"--model {model}: there are no weights in this folder ({', '.join(ENDINGS)})")
    if (model / FILE_NAME).is_file():
        start = visual.get("image_start_id") if isinstance(visual, dict) else settings.get("image_start_id")
        check_file(model / FILE_NAME, start, f"the model of {model}")


def check_pictures(sources: Iterable[Any]) -> None:
    """Refuse files that do not exist or are not pictures. Web addresses are checked later.

    Raises:
        FileNotFoundError, ImageError: the message names the picture and says why.
    """
    for source in sources:
        if is_data_uri(source):
            decode_data_uri(source)
        elif not is_web_address(source):
            start_image(source)


def in_options(message: str) -> str:
    """Let an error name the command's options, instead of YAML keys, that would allow what was refused."""
    for pattern, option in OPTIONS:
        message = pattern.sub(option, message)
    return message
