"""`base_config:` as MindFormers follows it (mindformers/tools/register/config.py, the same in 1.6 to 2.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_qwenvl.recipes.changes import apply_changes
from mindformers_qwenvl.recipes.yaml_file import RecipeError, read_file

__all__ = ["BASE_CONFIG", "MAX_FILES", "chain", "read"]

BASE_CONFIG = "base_config"
MAX_FILES = 100  # of one recipe, counting a file as often as it is read


def read(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a YAML as MindFormers sees them, before it adds its own defaults.

    `base_config: NAME`, or a list of names, says what the file builds on:

    - A name is relative to the folder of the file that contains it.
    - Sections are merged key by key; any other value, a list included, replaces the value of the base.
    - Of several bases, a later one replaces whole top-level sections of an earlier one.
    - A base may have a base of its own.

    Args:
        path: the YAML file.
        changes: such as `parallel_config.data_parallel=16`, applied after the bases are merged.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the file, or one of its bases, cannot be opened.
        RecipeError: a file is not a YAML with sections, bases form a circle, or a change is malformed.
    """
    return apply_changes(_Reader().read(os.fspath(path), ()), changes)


def chain(path: str | os.PathLike[str]) -> list[Path]:
    """The file itself and every file that it builds on, each once. Raises as `read` does."""
    reader = _Reader()
    reader.read(os.fspath(path), ())
    return list(dict.fromkeys(reader.files))


class _Reader:
    """`files`: those read so far, in order."""

    def __init__(self):
        self.files: list[Path] = []

    def read(self, path: str, above: tuple[str, ...]) -> dict[str, Any]:
        """`above`: the files that led here, outermost first."""
        if any(os.path.realpath(path) == os.path.realpath(file) for file in above):
            raise RecipeError(f"{BASE_CONFIG} goes round in a circle: {' -> '.join((*above, path))}")
        if len(self.files) == MAX_FILES:
            raise RecipeError(f"{path}: {BASE_CONFIG} leads to more than {MAX_FILES} files")
        self.files.append(Path(path))
        try:
            content = read_file(path)
        except OSError as error:
            if not above:
                raise
            raise type(error)(f"{above[-1]}: its {BASE_CONFIG}: {error}") from None
        if BASE_CONFIG not in content:
            return content
        merged: dict[str, Any] = {}
        for name in _names(content.pop(BASE_CONFIG), path):
            # Relative to the path as given: a link is not followed, as in MindFormers.
            merged.update(self.read(os.path.join(os.path.dirname(path), name), (*above, path)))  # noqa: PTH118, PTH120
        return _merge(content, merged, path, "")


def _names(value: Any, path: str) -> list[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not name:
            raise RecipeError(f"{path}: {BASE_CONFIG}: a file name, or a list of file names, is expected, got {name!r}")
    return names


def _merge(changes: dict[str, Any], base: dict[str, Any], path: str, section: str) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, dict) and below is not None:
            name = f"{section}{key}"
            if not isinstance(below, dict):
                raise RecipeError(f"{path}: {name} is a section here, but {below!r} in its {BASE_CONFIG}")
            merged[key] = _merge(value, below, path, f"{name}.")
        else:
            merged[key] = value
    return merged
