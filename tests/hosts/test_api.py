"""Everything that this package takes from MindFormers is there, in every version of the table: names that are imported,
attributes that work-arounds touch, signatures of methods that are overridden.

Read from source files, so that no host is installed for it: the wheels are downloaded (2 MB each) and unpacked. The
running host is checked always, the others are `slow`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mindformers_qwenvl import versions
from mindformers_qwenvl.host import WORK_AROUNDS

PACKAGE = Path(versions.__file__).parent
RELEASES = ("1.7.0", "1.8.0", "1.9.0", "2.0.0", "2.1.0")
# What a version lacks and this package does without, in words: rows of the index that `doctor` reports there.
LACKING: dict[str, set[str]] = {}


# ---- the host's files


class Source:
    """MindFormers in a folder, read and never imported."""

    def __init__(self, root: Path):
        self.root = root
        self._modules: dict[str, dict[str, ast.AST] | None] = {}

    def file(self, module: str) -> Path | None:
        path = self.root.joinpath(*module.split("."))
        return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)

    def names(self, module: str) -> dict[str, ast.AST] | None:
        """Name -> where it is made, at the top of a module; those of `from x import *` too. None: no such module."""
        if module not in self._modules:
            file = self.file(module)
            self._modules[module] = None if file is None else {}
            if file is not None:
                package = module if file.name == "__init__.py" else module.rpartition(".")[0]
                self._modules[module] = dict(self._of(ast.parse(file.read_text(encoding="utf-8")).body, package))
        return self._modules[module]

    def _of(self, body: list[ast.stmt], package: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name, node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    yield from ((one.id, node) for one in ast.walk(target) if isinstance(one, ast.Name))
            elif isinstance(node, ast.Import):
                yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(node, package)
                for alias in node.names:
                    if alias.name == "*":
                        yield from (self.names(source) or {}).items()
                    else:
                        yield alias.asname or alias.name, ast.ImportFrom(source, [alias], 0)
            elif isinstance(node, ast.If | ast.Try | ast.With):
                for part in ("body", "orelse", "finalbody"):
                    yield from self._of(getattr(node, part, []), package)
                for handler in getattr(node, "handlers", []):
                    yield from self._of(handler.body, package)

    @staticmethod
    def _absolute(node: ast.ImportFrom, package: str) -> str:
        if not node.level:
            return node.module or ""
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])

    def find(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        """Module and node where `name` of `module` is made, through imports; None if there is none."""
        for _ in range(10):
            names = self.names(module)
            if names is None or name not in names:
                return (f"{module}.{name}", ast.Module([], [])) if self.file(f"{module}.{name}") else None
            node = names[name]
            if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mindformers")):
                return module, node
            if (node.module, node.names[0].name) == (module, name):  # `from mindformers import pet`, a folder
                return (f"{module}.{name}", ast.Module([], [])) if self.file(f"{module}.{name}") else None
            module, name = node.module or "", node.names[0].name
        return None

    def has(self, path: str) -> bool:
        """`module:Class.name`, of MindFormers; what is MindSpore's is taken to be there."""
        module, _, names = path.partition(":")
        if not module.startswith("mindformers"):
            return True
        first, *rest = names.split(".") if names else [""]
        found = self.find(module, first)
        if found is None:
            return False
        if not rest:
            return True
        return self.method(*found, rest[0]) is not None

    def method(self, module: str, node: ast.AST, name: str) -> ast.AST | None:
        """The method `name` of a class, its own or a base's."""
        if not isinstance(node, ast.ClassDef):
            return None
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and one.name == name:
                return one
            if isinstance(one, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in one.targets):
                return one
        for base in node.bases:
            found = self.find(module, ast.unparse(base).partition(".")[0])
            if found is not None and isinstance(found[1], ast.Import | ast.ImportFrom):
                return found[1]  # MindSpore's, where it is taken to be
            if found is not None and (inherited := self.method(*found, name)) is not None:
                return inherited
        return None


# ---- what this package takes


@dataclass(frozen=True)
class Import:
    """`from module import name` in `file`. Of those in one `try: ... except ImportError:` one branch has to work."""

    file: str
    branches: tuple[tuple[tuple[str, str], ...], ...]

    def missing(self, source: Source) -> bool:
        return not any(all(source.find(*one) for one in branch) for branch in self.branches)

    def __str__(self) -> str:
        branches = [", ".join(f"from {module} import {name}" for module, name in branch) for branch in self.branches]
        return f"{self.file}: {' or '.join(branches)}"


def imports() -> Iterator[Import]:
    """All that is imported of MindFormers, at the top of modules and in functions."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name, tree = str(file.relative_to(PACKAGE)), ast.parse(file.read_text(encoding="utf-8"))
        seen: set[ast.AST] = set()
        for attempt in (node for node in ast.walk(tree) if isinstance(node, ast.Try)):
            if any("ImportError" in ast.unparse(handler.type or ast.Constant("")) for handler in attempt.handlers):
                parts = [attempt.body, *(handler.body for handler in attempt.handlers)]
                branches = [[node for statement in part for node in ast.walk(statement)] for part in parts]
                seen.update(node for branch in branches for node in branch)
                if any(map(_taken, [branches[0]])):  # a handler without an import does without
                    yield Import(name, tuple(map(_taken, branches)))
        for node in ast.walk(tree):
            if node not in seen:
                yield from (Import(name, ((one,),)) for one in _taken([node]))


def _taken(nodes: list[ast.AST]) -> tuple[tuple[str, str], ...]:
    """(module, name) of all that `nodes` import of MindFormers."""
    found = (node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module)
    found = (node for node in found if node.module.partition(".")[0] == "mindformers")
    return tuple((node.module, alias.name) for node in found for alias in node.names)


def overrides() -> Iterator[tuple[str, str, str, ast.FunctionDef, str]]:
    """(module of the host, class, method, our method, our file) for every method of a class with a base of the host."""
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        known = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and not node.level
            for alias in node.names
        }
        for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for base in map(ast.unparse, cls.bases):
                module, name = known.get(base, ("", ""))
                if module.partition(".")[0] == "mindformers":
                    for method in (node for node in cls.body if isinstance(node, ast.FunctionDef)):
                        yield module, name, method.name, method, str(file.relative_to(PACKAGE))


def accepts(ours: ast.FunctionDef, theirs: ast.AST) -> bool:
    """Whether what can call the host's method can call ours: by position, or by the names of arguments."""
    if not isinstance(theirs, ast.FunctionDef):
        return True
    mine, yours = _arguments(ours), _arguments(theirs)
    if ours.args.vararg is None and len(yours.needed) > len(mine.all):
        return False
    if ours.args.kwarg is None and not set(yours.all) - set(yours.needed) <= set(mine.all):
        return False
    return len(mine.needed) <= len(yours.all)


@dataclass(frozen=True)
class Arguments:
    all: list[str]
    needed: list[str]  # without a default


def _arguments(function: ast.FunctionDef) -> Arguments:
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args)]
    needed = names[: len(names) - len(function.args.defaults)]
    static = any(ast.unparse(one) == "staticmethod" for one in function.decorator_list)
    return Arguments(names, needed) if static else Arguments(names[1:], needed[1:])


# ---- the check


def check(source: Source) -> list[str]:
    """What is missing, in words."""
    faults = []
    for one in imports():
        if one.missing(source):
            faults.append(str(one))
    for module, cls, name, ours, file in overrides():
        found = source.find(module, cls)
        theirs = source.method(*found, name) if found else None
        if theirs is not None and name not in ("__init__", "construct") and not accepts(ours, theirs):
            faults.append(
                f"{file}: {cls}.{name}({ast.unparse(theirs.args)}) is overridden by ({ast.unparse(ours.args)})"
            )
    return faults


def lacking(source: Source) -> set[str]:
    """Rows of the index of work-arounds that touch what is not there."""
    return {row.name for row in WORK_AROUNDS if not all(any(map(source.has, path.split("|"))) for path in row.touches)}


def test_there_is_something_to_check():
    found = list(imports())
    assert len({one.branches for one in found}) > 40
    assert any(len(one.branches) > 1 for one in found)
    assert len(list(overrides())) > 10


def test_the_running_host():
    spec = versions.installed("mindformers")
    assert spec is not None
    source = Source(spec.folder.parent)
    assert check(source) == []
    release = importlib.metadata.version("mindformers")
    assert lacking(source) == LACKING.get(release, set())


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """`unpacked("1.8.0")`: a folder with that MindFormers; the test is skipped where the wheel cannot be had."""
    folder = tmp_path_factory.mktemp("wheels")

    def get(version: str) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        done = subprocess.run([*command, f"mindformers=={version}"], capture_output=True, text=True)
        wheel = folder / f"mindformers-{version}-py3-none-any.whl"
        if done.returncode or not wheel.exists():
            pytest.skip(f"no wheel of MindFormers {version} can be downloaded: {done.stderr[-300:]}")
        zipfile.ZipFile(wheel).extractall(folder / version)
        return folder / version

    return get


@pytest.mark.slow
@pytest.mark.parametrize("version", RELEASES)
def test_a_release(unpacked, version):
    source = Source(unpacked(version))
    assert check(source) == []
    assert lacking(source) == LACKING.get(version, set())


@pytest.mark.slow
def test_an_old_release_is_seen_to_lack_something(unpacked):
    """1.6, which is refused: the check finds why."""
    source = Source(unpacked("1.6.0"))
    assert {"resume in data parallel"} <= lacking(source)


def test_the_check_finds_what_is_not_there(tmp_path):
    """A host of our making, with one of our imports moved away and a method with one argument more."""
    (tmp_path / "mindformers").mkdir()
    (tmp_path / "mindformers" / "__init__.py").write_text("from .other import *\n")
    (tmp_path / "mindformers" / "other.py").write_text("class AutoConfig:\n    def from_pretrained(cls, a): ...\n")
    source = Source(tmp_path)
    assert source.has("mindformers:AutoConfig.from_pretrained")
    assert not source.has("mindformers:AutoConfig.register")
    assert not source.has("mindformers.other:Missing")
    faults = check(source)
    assert not any(fault.endswith("from mindformers import AutoConfig") for fault in faults)
    assert any(fault.endswith("from mindformers import AutoModel") for fault in faults)
    forms = ("self, a, b", "self, a", "self, *a, **b", "self, a, b=1", "self, a, c=1")
    two, one, anything, default, other = (ast.parse(f"def predict({form}): ...").body[0] for form in forms)
    assert accepts(two, two) and accepts(anything, two) and accepts(default, one)
    assert not accepts(one, two) and not accepts(two, one) and not accepts(default, other)
