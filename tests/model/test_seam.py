"""Only model/ops asks for the device, and only host/ uses private names of the host: read from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mindformers_qwenvl"
QUESTIONS = ("on_ascend", "unsharded", "device_target")
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
HOSTS = ("mindformers", "mindspore")


def _nodes(name: str) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))


def test_the_device_is_asked_in_ops_alone():
    asking = set()
    for name in FILES:
        for node in _nodes(name):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.id] if isinstance(node, ast.Name) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            if any(question in names for question in QUESTIONS):
                asking.add(name)
    # `host/context.py` has names for what MindFormers does differently on a CPU; doctor reports the device.
    assert {name for name in asking if not name.startswith("model/ops/")} == {"host/context.py", "doctor/plugin.py"}
    assert "model/ops/attention.py" in asking


def test_the_context_is_read_in_one_place():
    """The device and how processes share the work; a device named in a YAML is another matter."""
    reading = {}
    for name in FILES:
        for node in _nodes(name):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            named = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if (called == "get_context" and "device_target" in named) or called == "get_auto_parallel_context":
                reading.setdefault(called, set()).add(name)
    assert reading == {"get_context": {"host/context.py"}, "get_auto_parallel_context": {"host/context.py"}}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("host/")])
def test_private_names_of_the_host(name):
    """Outside of host/, no private name is imported from the host, and none is taken from an object but by the class
    that overrides it (`super()._name` in a method `_name`)."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    modules, found = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in HOSTS:
            modules |= {alias.asname or alias.name for alias in node.names}
            found += [alias.name for alias in node.names if _is_private(alias.name)]
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.partition(".")[0] in HOSTS}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute) or not _is_private(node.attr):
                continue
            of_super = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            of_host = isinstance(node.value, ast.Name) and node.value.id in modules
            if of_host or (of_super and node.attr != function.name):
                found.append(node.attr)
    assert found == []


def test_private_names_of_nobody():
    """Outside of host/, an object has no private name that this package does not define, written out or as a string:
    it would be one of the host."""
    defined, used = set(), {}
    for name in FILES:
        for node in _nodes(name):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                defined.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.Attribute):
                used.setdefault(node.attr, set()).add(name)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
                named = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                for word in (word for word in named if isinstance(word, str)):
                    used.setdefault(word, set()).add(name)
    strange = {
        word: {name for name in names if not name.startswith("host/")}
        for word, names in used.items()
        if _is_private(word) and word not in defined
    }
    standard = {"_exit", "_replace"}  # of os, of named tuples
    assert {word: names for word, names in strange.items() if names and word not in standard} == {}
