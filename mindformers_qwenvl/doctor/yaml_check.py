"""A YAML of the user: whether it can be read, and which of its keys nothing reads."""

from __future__ import annotations

from pathlib import Path

from mindformers_qwenvl import recipes
from mindformers_qwenvl.config.yaml_keys import WITHOUT_HOST, unknown_keys
from mindformers_qwenvl.doctor.findings import FAILED, NOT_CHECKED, OK, WARNING, Finding
from mindformers_qwenvl.versions import installed

__all__ = ["look_through"]

SECTION = "YAML"


def look_through(path: Path) -> list[Finding]:
    """The findings about the YAML at `path`, or about the shipped one of that name."""
    try:
        content = recipes.read(recipes.find(path))
    except (OSError, recipes.RecipeError) as error:
        return [Finding(SECTION, str(path), FAILED, str(error))]
    found = [Finding(SECTION, *_split(sentence)) for sentence in unknown_keys(content)]
    if not found:
        found = [Finding(SECTION, str(path), OK, "no unknown or misspelt key was found")]
    if installed("mindformers") is None:
        found.append(Finding(SECTION, "MindFormers' keys", NOT_CHECKED, WITHOUT_HOST))
    return found


def _split(sentence: str) -> tuple[str, str, str]:
    key, _, what = sentence.partition(": ")
    return key, WARNING, what
