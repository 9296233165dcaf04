"""Settings of processor and tokenizer from the files of a model's folder, as far as they are trusted. Plain Python.

A folder may have been downloaded. It may tighten a limit, but not loosen one, and may not name files outside itself:
such settings are left out, with a `FolderWarning`. The arguments of a call, and a YAML given by its own path, are the
user's own and are not checked here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_qwenvl import recipes
from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.config.folder import leave_out
from mindformers_qwenvl.files import read_json
from mindformers_qwenvl.pictures.policy import ImagePolicy
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary

__all__ = ["PREPROCESSOR", "followed_policy", "own_vocabulary", "processor_section", "tokenizer_section"]

PREPROCESSOR = "preprocessor_config.json"
# The `type` that each section may name. Classes are those of this package; code in the folder is not imported.
CLASSES = {
    "": "QwenVLProcessor",
    "image_processor": "QwenVLImageProcessor",
    "model_transform_template": "QwenVLContentTransformTemplate",
    "tokenizer": "QwenVLTokenizer",
}


def processor_section(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(file, section `processor`) of a YAML in the folder or of its preprocessor_config.json; None if there is none.
    The tokenizer, the names of classes, and what a folder may not set are left out of the section.

    Raises:
        ValueError: the file is not YAML or JSON, or the section is malformed.
    """
    for file, content in (*_yamls(folder), *_preprocessor(folder)):
        if section := content.get("processor"):
            return file, _followed(file, _plain(file, "", section))
    return None


def tokenizer_section(folder: Path) -> dict[str, Any]:
    """The section `processor.tokenizer` of a YAML in the folder; {} if there is none. Raises as `processor_section`."""
    for file, content in _yamls(folder):
        section = content.get("processor")
        if isinstance(section, Mapping) and section.get("tokenizer"):
            return _plain(file, "tokenizer", section["tokenizer"])
    return {}


def _yamls(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    return [(file, recipes.read(file)) for file in sorted(folder.glob("*.yaml"))]


def _preprocessor(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    file = folder / PREPROCESSOR
    content = read_json(file) if file.is_file() else {}
    return [(file, content)] if isinstance(content, dict) else []


def _plain(file: Path, name: str, section: Any) -> dict[str, Any]:
    """A section without the class it names, which must be ours."""
    key = f"processor.{name}".rstrip(".")
    if not isinstance(section, Mapping):
        raise ValueError(f"{file}: {key} must be a section, got {printable(repr(section)[:80])}")
    wanted = CLASSES[name]
    if section.get("type", wanted) != wanted:
        raise ValueError(f"{file}: {key}.type must be {wanted}, got {printable(repr(section['type'])[:80])}")
    if "auto_register" in section:
        leave_out(file, f"{key}.auto_register", "code that comes with a folder is not imported")
    return {str(name): value for name, value in section.items() if name not in ("type", "auto_register")}


def _followed(file: Path, section: dict[str, Any]) -> dict[str, Any]:
    section.pop("tokenizer", None)
    parts = {name: _plain(file, name, section[name]) for name in CLASSES if section.get(name)}
    for part in (section, *parts.values()):
        if part.pop("dataset_dir", None):
            leave_out(file, "dataset_dir", "only the user may name a folder of pictures: pass dataset_dir")
        if "image_policy" in part:
            part["image_policy"] = followed_policy(file, part["image_policy"])
    return {**section, **parts}


def followed_policy(file: str | os.PathLike[str], section: Any) -> ImagePolicy:
    """The default policy, tightened by the `section` of a file in a folder."""
    wanted = ImagePolicy.of(section)
    policy = ImagePolicy().tightened(wanted)
    said = section if isinstance(section, Mapping) else wanted.to_dict()
    if beyond := [name for name in said if getattr(policy, name) != getattr(wanted, name)]:
        how = "a folder may tighten the policy, not loosen it: use --allow-private or the argument image_policy"
        leave_out(file, f"image_policy: {', '.join(beyond)}", how)
    return policy


def own_vocabulary(folder: Path, named: Any) -> Path:
    """The vocabulary of a folder whose JSON or YAML calls it `named`: a file in the folder, or else its qwen.tiktoken.

    Raises:
        FileNotFoundError: there is none.
    """
    if isinstance(named, str) and named:
        place = os.path.normpath(folder / named)
        if place.startswith(f"{os.path.normpath(folder)}{os.sep}") and Path(place).is_file():
            return Path(place)
        leave_out(folder, f"vocab_file {named}", "a folder may not name files outside itself: pass vocab_file")
    # If the folder has no vocabulary, do not fall back to the published one: a small model has other ids.
    return find_vocabulary(folder)
