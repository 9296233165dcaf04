"""What a model's folder says and is not followed. Plain Python.

A folder may have been downloaded: it may tighten a limit, but not loosen one, and it names no file outside of itself.
The arguments of a call, and a YAML that is named by its own path, are the user's word and are not looked at here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from mindformers_qwenvl.checks import printable

__all__ = ["FolderWarning", "followed_settings", "leave_out"]

# Keys of a configuration that name files to load from; its weights and adapters are those of the folder, or of a call.
PATHS = ("checkpoint_name_or_path", "adapter", "pretrained_model_dir")
PARTS = ("vision_model", "llm_model")


class FolderWarning(UserWarning):
    """Something that a model's folder says and that is not followed."""


def leave_out(file: str | os.PathLike[str], what: str, why: str) -> None:
    """Say that something is not followed."""
    warnings.warn(printable(f"{os.fspath(file)}: {what} is left out ({why})"), FolderWarning, stacklevel=3)


def followed_settings(file: str | os.PathLike[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json of ours without the keys that name other files."""
    for key in PATHS:
        if settings.get(key):
            leave_out(file, f"{key} {settings[key]!r}", "a folder names no file outside of itself: pass it to the call")
    followed = {key: value for key, value in settings.items() if key not in PATHS}
    for part in PARTS:
        section = followed.get(part)
        if isinstance(section, Mapping) and isinstance(section.get("model_config"), Mapping):
            model = followed_settings(file, section["model_config"])
            followed[part] = {**section, "model_config": model}
        elif isinstance(section, Mapping):
            followed[part] = followed_settings(file, section)
    return followed
