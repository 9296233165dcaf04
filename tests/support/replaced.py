"""What this package has put into the modules and classes of MindFormers and MindSpore in this process."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

HOSTS = ("mindformers", "mindspore")


def replaced_in_host() -> dict[str, Any]:
    """`module:name` or `module:Class.name` -> the function or class of ours that stands there."""
    found = {}
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] not in HOSTS or module is None:
            continue
        for name, value in list(vars(module).items()):
            if _is_ours(value):
                found[f"{path}:{name}"] = value
            elif inspect.isclass(value) and getattr(value, "__module__", "") == path:
                found |= {f"{path}:{value.__qualname__}.{name}": ours for name, ours in _methods(value)}
    return found


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(cls).items()):
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and _is_ours(function):
            yield name, function


def _is_ours(value: Any) -> bool:
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return False
    return str(getattr(value, "__module__", "")).startswith("mindformers_qwenvl.")
