"""The YAMLs that come with this package."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find", "shipped", "yaml_dir"]


def yaml_dir() -> Path:
    """Their folder: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    return package / "yaml" if (package / "yaml").is_dir() else package.parent / "yaml"


def shipped() -> list[str]:
    """Their names, without `.yaml`, sorted."""
    return sorted(file.stem for file in yaml_dir().glob("*.yaml"))


def find(name: str | os.PathLike[str]) -> Path:
    """The file at this path, or else the shipped YAML of this name, with or without `.yaml`. It need not exist."""
    path = Path(name)
    stem = path.name.removesuffix(".yaml")
    if not path.exists() and path.parent == Path() and stem in shipped():
        return yaml_dir() / f"{stem}.yaml"
    return path
