"""Typed reading of a YAML's keys. Errors name the file, the key, what was expected and what was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import byte_count, is_whole, nearest
from mindformers_qwenvl.recipes import RecipeError, has_key, key_of, read

__all__ = ["DTYPE_BYTES", "GB", "Section", "SettingsError", "memory_size", "read_yaml"]

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GB = 1024**3  # as in MindSpore's max_device_memory and the data sheets of the cards


class SettingsError(RecipeError):
    """The YAML, or an option, does not say what it should."""


SMALLEST_MEMORY = 1 << 20  # bytes; no card has less


def memory_size(name: str, text: Any) -> int:
    """`64GB`, `57.5 GB`, `800MB` -> bytes; units are powers of 1024.

    Raises:
        SettingsError: it is not a size, or is so small that its unit must have been forgotten.
    """
    try:
        size = byte_count(name, text, unit=1024)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if size < SMALLEST_MEMORY:
        raise SettingsError(f"{name} is {size:,} bytes; did you mean {str(text).strip()}GB?")
    return size


def read_yaml(path: Path, changes: Sequence[str] = ()) -> Section:
    """The YAML at `path`, with its bases and with `changes`, such as `parallel_config.data_parallel=16`.

    Raises:
        OSError, RecipeError: see `recipes.read`.
    """
    top = Section(read(path, changes), str(path))
    own = read(path) if changes else {}
    top.known.update(top.name_of(key) for key in map(key_of, changes) if has_key(own, key))
    return top


def refuse_unknown(top: Section, changes: Sequence[str]) -> None:
    """Call this when everything has been read. A change of a key that was not read has no effect: it may be misspelt.

    Raises:
        SettingsError: a change names a key that the YAML does not have and the estimate did not read.
    """
    own = set(map(key_of, changes))
    for key, change in zip(map(key_of, changes), changes, strict=True):
        if top.name_of(key) not in top.known:
            known = {*_keys(top.content), *(name.removeprefix(top.name_of("")) for name in top.known)} - own
            raise SettingsError(
                f"--set {change}: {key} is neither a key of {top.where} nor one that the estimate depends on; check "
                f"its spelling and its sections{nearest(key, known)}"
            )


def _keys(content: Mapping[str, Any]) -> Iterator[str]:
    """All keys of a YAML, as `--set` writes them."""
    for key, value in content.items():
        yield str(key)
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _keys(value))


class Section:
    """A section of a YAML. A missing key, or a null, has the default.

    `known`: names of all keys asked for so far, shared by the sections of a YAML.
    """

    def __init__(self, content: Mapping[str, Any], where: str, known: set[str] | None = None):
        self.content, self.where = content, where
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

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "True or False")
        return value

    def dtype(self, key: str, default: str) -> str:
        return self.choice(key, default, DTYPE_BYTES)

    def choice(self, key: str, default: Any, allowed: Sequence[Any] | Mapping[Any, Any]) -> Any:
        value = self.get(key, default)
        if isinstance(value, (list, dict)) or value not in allowed:
            raise self.error(key, "one of " + ", ".join(str(item) for item in allowed))
        return value

    def error(self, key: str, expected: str) -> SettingsError:
        found = f"got {self.content[key]!r}" if key in self.content else "there is none"
        return SettingsError(f"{self.name_of(key)}: {expected} is expected, {found}")

    def name_of(self, key: str) -> str:
        return f"{self.where}{': ' if self.where.endswith(('.yaml', '.yml')) else '.'}{key}"
