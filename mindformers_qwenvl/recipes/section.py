"""Typed reading of a YAML's keys. Errors name the file, the key, what was expected and what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.recipes.base_config import read
from mindformers_qwenvl.recipes.changes import has_key, key_of
from mindformers_qwenvl.recipes.yaml_file import RecipeError

__all__ = ["Section", "SettingsError", "read_yaml"]


class SettingsError(RecipeError):
    """The YAML, or an option, does not say what it should."""


def read_yaml(path: Path, changes: Sequence[str] = ()) -> Section:
    """The YAML at `path`, with its bases and with `changes`, such as `parallel_config.data_parallel=16`.

    Raises:
        OSError, RecipeError: see `recipes.read`.
    """
    top = Section(read(path, changes), str(path), inner=False)
    own = read(path) if changes else {}
    top.known.update(top.name_of(key) for key in map(key_of, changes) if has_key(own, key))
    return top


class Section:
    """A section of a YAML. A missing key, or null, gives the default.

    where: the file, and the path of the section in it. known: names of all keys asked for so far, shared by the
    sections of a YAML. inner: whether it is a section, not the whole YAML.
    """

    def __init__(self, content: Mapping[str, Any], where: str, known: set[str] | None = None, inner: bool = True):
        self.content, self.where, self.inner = content, where, inner
        self.known = set() if known is None else known

    def get(self, key: str, default: Any = None) -> Any:
        self.known.add(self.name_of(key))
        value = self.content.get(key)
        return default if value is None else value

    def section(self, key: str, required: bool = False) -> Section:
        value = self.get(key)
        if value is None and not required:
            value = {}
        if not isinstance(value, Mapping):
            found = "there is none" if value is None else f"got {value!r}"
            raise SettingsError(f"{self.name_of(key)}: a section with keys is expected, {found}")
        return Section(value, self.name_of(key), self.known)

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    def number(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.get(key, default)
        if not is_whole(value, least):
            raise self.error(key, f"a whole number of {least} or more")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "a string (in quotes, or leave the key out)")
        return value

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "True or False")
        return value

    def choice(self, key: str, default: Any, allowed: Sequence[Any] | Mapping[Any, Any]) -> Any:
        value = self.get(key, default)
        if isinstance(value, (list, dict)) or value not in allowed:
            raise self.error(key, f"{'one of ' * (len(allowed) > 1)}{', '.join(map(str, allowed))}")
        return value

    def error(self, key: str, expected: str) -> SettingsError:
        found = f"got {self.content[key]!r}" if key in self.content else "there is none"
        return SettingsError(f"{self.name_of(key)}: {expected} is expected, {found}")

    def name_of(self, key: str) -> str:
        return f"{self.where}{'.' if self.inner else ': '}{key}"
