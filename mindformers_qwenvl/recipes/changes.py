"""Changes such as `parallel_config.data_parallel=16`, as the option `--set` of the commands takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_qwenvl.recipes.yaml_file import RecipeError, parse

__all__ = ["apply_changes", "has_key", "key_of"]


def key_of(change: str) -> str:
    """`a.b=1` -> `a.b`."""
    return change.partition("=")[0]


def has_key(content: Any, key: str) -> bool:
    """Whether `content` has the key `a.b`, whatever its value."""
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def apply_changes(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Make `changes` to `content`, in their order, and return it. Missing sections are created.

    Raises:
        RecipeError: a change is not KEY=VALUE, its value is not YAML, or part of its key is a value, not a section.
    """
    for change in changes:
        key, equals, value = change.partition("=")
        *sections, last = key.split(".")
        if not equals or not all([*sections, last]):
            raise RecipeError(f"--set {change}: KEY=VALUE is expected, such as parallel_config.data_parallel=16")
        parsed = parse(value, f"--set {change}")
        section = content
        for number, name in enumerate(sections):
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                given = ".".join(sections[: number + 1])
                raise RecipeError(f"--set {change}: {given} is not a section in the YAML, but {section!r}")
        section[last] = parsed
    return content
