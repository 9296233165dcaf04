"""Typed reading of a YAML's keys, with errors that name file, key, what was given and what is expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DTYPE_BYTES", "GB", "Section", "SettingsError", "parse_memory", "read_yaml"]

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
GB = 1024**3  # as MindSpore's max_device_memory and the data sheets of the cards have it
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": GB, "T": 1024 * GB}


class SettingsError(ValueError):
    """The YAML, or an option, does not say what it should."""


def parse_memory(text: Any, where: str = "memory") -> int:
    """`64GB`, `57.5 GB`, `800MB` -> bytes; units are powers of 1024.

    Raises:
        SettingsError: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)I?B?\s*", str(text), re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise SettingsError(f"{where}: a size such as 64GB is expected, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def read_yaml(path: Path, changes: Sequence[str] = ()) -> Section:
    """The YAML at `path`, with `changes` such as `parallel_config.data_parallel=16` made to it.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is no YAML with sections, or a change is malformed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the YAML of a training or a prediction is expected")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: sections such as `model:` are expected, got {type(content).__name__}")
    for change in changes:
        _apply(content, change)
    return Section(content, str(path))


def _apply(content: dict[str, Any], change: str) -> None:
    keys, equals, value = change.partition("=")
    *above, last = keys.split(".")
    if not equals or not all([*above, last]):
        raise SettingsError(f"--set {change}: KEY=VALUE is expected, such as parallel_config.data_parallel=16")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError(f"--set {change}: {value!r} is no YAML value") from None
    for key in above:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise SettingsError(f"--set {change}: {key} is a value in the YAML, not a section")
    content[last] = parsed


class Section:
    """A section of a YAML. A key that is missing, or null, gives the default."""

    def __init__(self, content: Mapping[str, Any], where: str):
        self.content, self.where = content, where

    def section(self, key: str, required: bool = False) -> Section:
        value = self.content.get(key)
        if value is None and not required:
            value = {}
        if not isinstance(value, Mapping):
            found = "there is none" if value is None else f"got {value!r}"
            raise SettingsError(f"{self._name(key)}: a section with keys is expected, {found}")
        return Section(value, self._name(key))

    def has(self, key: str) -> bool:
        return self.content.get(key) is not None

    def number(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.content.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(key, f"a whole number, {least} or more")
        return value

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.content.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(key, "True or False")
        return value

    def dtype(self, key: str, default: str) -> str:
        return self.choice(key, default, DTYPE_BYTES)

    def choice(self, key: str, default: Any, allowed: Sequence[Any] | Mapping[Any, Any]) -> Any:
        value = self.content.get(key)
        value = default if value is None else value
        if isinstance(value, (list, dict)) or value not in allowed:
            raise self.error(key, "one of " + ", ".join(str(item) for item in allowed))
        return value

    def error(self, key: str, expected: str) -> SettingsError:
        found = f"got {self.content[key]!r}" if key in self.content else "there is none"
        return SettingsError(f"{self._name(key)}: {expected} is expected, {found}")

    def _name(self, key: str) -> str:
        return f"{self.where}{': ' if self.where.endswith(('.yaml', '.yml')) else '.'}{key}"
