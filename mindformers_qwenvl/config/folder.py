"""Settings in a model's folder that are not followed. Plain Python.

A folder may have been downloaded: it may tighten a limit, but not loosen one, and it must not name files outside
itself. The arguments of a call, and a YAML given by its own path, come from the user and are not checked here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from mindformers_qwenvl.checks import printable

__all__ = ["FolderWarning", "followed_settings", "leave_out"]

# Keys of a configuration that name files to load; weights and adapters are those of the folder, or are given in a call.
PATHS = ("checkpoint_name_or_path", "adapter", "pretrained_model_dir")
PARTS = ("vision_model", "llm_model")


class FolderWarning(UserWarning):
    """A setting in a model's folder that is not followed."""


def leave_out(file: str | os.PathLike[str], what: str, why: str) -> None:
    """Warn that a setting is not followed."""
    warnings.warn(printable(f"{os.fspath(file)}: {what} is left out ({why})"), FolderWarning, stacklevel=3)


def followed_settings(file: str | os.PathLike[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json of ours without the keys that name other files."""
    for key in PATHS:
        if settings.get(key):
            leave_out(
                file, f"{key} {settings[key]!r}", "a folder must not name files outside itself: pass it to the call"
            )
    followed = {key: value for key, value in settings.items() if key not in PATHS}
    for part in PARTS:
        section = followed.get(part)
        if isinstance(section, Mapping) and isinstance(section.get("model_config"), Mapping):
            model = followed_settings(file, section["model_config"])
            followed[part] = {**section, "model_config": model}
        elif isinstance(section, Mapping):
            followed[part] = followed_settings(file, section)
    return followed
