"""One YAML file, or one YAML value, as plain dicts and lists. Reading it is cheap, whatever it contains."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mindformers_qwenvl.checks import nearest
from mindformers_qwenvl.files import open_regular
from mindformers_qwenvl.recipes.shipped import shipped

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "RecipeError", "dump", "parse", "read_file"]

MAX_BYTES = 128 * 1024  # of one file; the longest shipped YAML is under 20 kB, and 1 MB takes PyYAML a minute
MAX_VALUES = 100_000  # keys and values of one file, with every alias written out
MAX_DEPTH = 100  # levels of nested sections or lists


class RecipeError(ValueError):
    """A YAML that MindFormers could not use, or a change to one that cannot be made."""


def read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The sections of one file. `base_config:` is a key like any other here.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: it cannot be opened.
        RecipeError: it is not a YAML file with sections, or it is too large.
    """
    path = os.fspath(path)
    if path in ("", "."):
        raise IsADirectoryError("the path of a YAML file is expected, got an empty path or the current folder")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; the path of a YAML file is expected")
    if not Path(path).exists():
        near = nearest(Path(path).stem, shipped()) if Path(path).parent == Path() else ""
        raise FileNotFoundError(
            f"{path}: no such file{near}; the path of a YAML file is expected, or the name of a shipped one"
        )
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except ValueError as error:
        raise RecipeError(f"{error}; the path of a YAML file is expected") from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path} is larger than {MAX_BYTES:,} bytes; that is not a training or prediction YAML")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a YAML file: byte {error.start} is not UTF-8") from None
    sections = parse(text, path)
    if not isinstance(sections, dict):
        found = "an empty file" if sections is None else f"a {type(sections).__name__}"
        raise RecipeError(f"{path}: sections such as `model:` are expected, got {found}")
    for key in sections:
        if not isinstance(key, str):
            raise RecipeError(f"{path}: sections such as `model:` are expected, got the key {key!r}")
    return sections


class _Loader(yaml.SafeLoader):
    """Stops at MAX_DEPTH, before Python's stack overflows and before PyYAML has read all the brackets."""

    def __init__(self, text: str, where: str):
        super().__init__(text)
        self.where, self.depth = where, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecipeError(f"{self.where}: sections or lists are nested too deeply, more than {MAX_DEPTH} times")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse(text: str, where: str) -> Any:
    """The value of a YAML document. No two parts of it are the same object, even where the text has aliases.

    Args:
        text: the document.
        where: what error messages call it.

    Raises:
        RecipeError: it is not YAML, an alias contains itself, there are more than MAX_VALUES values, or they are
            nested more than MAX_DEPTH times.
    """
    return _copied(_document(text, where))


@lru_cache(maxsize=8)
def _document(text: str, where: str) -> Any:
    """`parse`, cached: PyYAML takes 20 ms for a shipped YAML, and a command reads several of them more than once."""
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, where)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{where}{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:  # a date such as 2026-13-01
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{where}: not valid YAML: {error}") from None


def _check_size(root: yaml.Node, where: str) -> None:
    """Refuse aliases that contain themselves, and more than MAX_VALUES values with the aliases written out."""
    sizes: dict[int, int | None] = {}  # by identity of the node; None: the node is being counted

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key in sizes:
            if sizes[key] is None:
                raise RecipeError(f"{where}, line {node.start_mark.line + 1}: an anchor that contains its own alias")
            return sizes[key]
        sizes[key] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        total = 1
        for part in parts:
            total += sum(map(size, part)) if isinstance(part, tuple) else size(part)
        if total > MAX_VALUES:
            raise RecipeError(f"{where}: more than {MAX_VALUES:,} values, with its aliases written out")
        sizes[key] = total
        return total

    size(root)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def dump(content: dict[str, Any]) -> str:
    """`content` as the text of a YAML, in its order, without comments."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
