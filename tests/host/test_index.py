"""The index of work-arounds is complete, true, and installed row by row."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mindformers_qwenvl import host
from mindformers_qwenvl.host import Kind, WorkAround
from mindformers_qwenvl.host import work_around as rows
from mindformers_qwenvl.host.replacements import Replacements, stock_of
from tests.support.replaced import replaced_in_host

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mindformers_qwenvl"
# Modules of host/ that work around nothing by themselves; the others must be in the index.
TOOLS = {"__init__", "accumulation", "context", "mistakes", "moved", "replacements", "resume_file", "work_around"}


@pytest.fixture(scope="module")
def registered():
    from mindformers_qwenvl.registration import register

    register()


def test_importing_it_is_cheap():
    code = "import sys, mindformers_qwenvl.host; print({'mindspore', 'mindformers', 'numpy'} & set(sys.modules))"
    command, environment = [sys.executable, "-S", "-c", code], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_are_different():
    assert [name for name, count in Counter(row.name for row in host.WORK_AROUNDS).items() if count > 1] == []


@pytest.mark.parametrize("row", host.WORK_AROUNDS, ids=lambda row: row.name)
def test_a_row_is_true(row, registered):
    """What it names exists: its code, its tests, and what it touches in the host that is installed here."""
    assert row.load() is not None
    assert row.missing() == ""
    assert row.tests
    for test in row.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test
    for text in (row.reason, row.seen, *row.host):
        assert text


def test_all_rows_are_active_here(registered):
    assert [(state.work_around.name, state.reason) for state in host.states() if state.state != host.ACTIVE] == []


def test_every_replacement_in_the_host_is_in_the_index(registered):
    """A function of ours in a module or class of the host belongs to a PATCH row, by its name there or by what it
    replaces, for a function that others have imported is replaced in their modules too."""
    found = replaced_in_host()
    stocks = []
    for row in host.WORK_AROUNDS:
        if row.kind is Kind.PATCH:
            for touched in row.touches:
                places = [rows._find(place) for place in touched.split("|") if rows._exists(place)]
                here = [stock for stock in map(stock_of, places) if stock is not None]
                assert here, f"{row.name} has replaced nothing at {touched}"
                stocks += here
    assert found
    for path, ours in found.items():
        assert any(stock_of(ours) is stock for stock in stocks), path


def test_every_module_of_the_room_is_in_the_index():
    wheres = {row.where for row in host.WORK_AROUNDS}
    for file in (PACKAGE / "host").glob("*.py"):
        if file.stem in TOOLS:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        module = f"host.{file.stem}"
        assert any(where.partition(":")[0] == module for where in wheres) or module == "host.optimizer", module
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and any(_is_of_host(base, tree) for base in node.bases):
                covered = {module, f"{module}:{node.name}"}
                assert any(where in covered or where.startswith(f"{module}:") for where in wheres), node.name


def test_every_method_that_a_class_overrides_for_the_host_is_in_the_index():
    """Of FullConfigTrainer and ProcessorPipeline: each public or host-named method."""
    wheres = {row.where for row in host.WORK_AROUNDS}
    for module, name in (("trainer", "FullConfigTrainer"), ("pipeline", "ProcessorPipeline")):
        tree = ast.parse((PACKAGE / "host" / f"{module}.py").read_text(encoding="utf-8"))
        (cls,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        for method in cls.body:
            if not isinstance(method, ast.FunctionDef) or method.decorator_list:
                continue
            where = f"host.{module}:{name}.{method.name}"
            assert where in wheres or (method.name == "__init__" and f"host.{module}:{name}" in wheres), where


def _is_of_host(base: ast.expr, tree: ast.Module) -> bool:
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("mindformers", "mindspore")
        for alias in node.names
    }
    return isinstance(base, ast.Name) and base.id in imported


def _row(**changes) -> WorkAround:
    usual = {
        "name": "a row of this test",
        "kind": Kind.PATCH,
        "where": "host.names:accept_old_auto_register",
        "host": ("file.py",),
        "reason": "none",
        "seen": "1.9",
        "tests": ("a test",),
    }
    return WorkAround(**{**usual, **changes})


@pytest.fixture
def _no_trace(monkeypatch):
    monkeypatch.setattr(host, "_states", dict(host._states))


@pytest.mark.usefixtures("_no_trace")
def test_a_row_that_finds_nothing_says_what_is_missing():
    state = host.install(
        _row(touches=("json:dumps", "json:no_such|json.decoder:JSONDecoder.no_such", "json:loads|x:y"))
    )
    assert state.sentence("MindFormers 1.2") == (
        "a row of this test: not available on MindFormers 1.2: there is no json:no_such or "
        "json.decoder:JSONDecoder.no_such"
    )


@pytest.mark.usefixtures("_no_trace")
@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (rows.NotNeeded("mended"), host.NOT_NEEDED, "mended"),
        (rows.NotAvailable("gone"), host.NOT_AVAILABLE, "gone"),
        (RuntimeError("two\nlines"), host.NOT_AVAILABLE, "RuntimeError: two lines"),
    ],
)
def test_a_row_that_fails_fails_alone(error, state, reason, monkeypatch):
    def failing(*arguments):
        raise error

    monkeypatch.setattr(WorkAround, "load", lambda self: failing)
    made = host.install(_row())
    assert (made.state, made.reason) == (state, reason)


def test_states_before_registration():
    code = "from mindformers_qwenvl import host; print({state.state for state in host.states()})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "{'not installed'}"


class Owner:
    def method(self):
        return "stock"

    @classmethod
    def of_class(cls):
        return cls.__name__


def test_replacements_are_all_or_none():
    def replacing(stock):
        return lambda *arguments: ("ours", stock(*arguments))

    replacements = Replacements()
    replacements.add(Owner, "method", replacing)
    with pytest.raises(rows.NotAvailable, match=r"there is no Owner\.no_such"):
        replacements.add(Owner, "no_such", replacing)
    assert Owner().method() == "stock"
    replacements.add(Owner, "of_class", replacing)
    replacements.apply()
    for _ in range(2):
        assert (Owner().method(), Owner.of_class()) == (("ours", "stock"), ("ours", "Owner"))
        again = Replacements()
        again.add(Owner, "method", replacing)
        again.add(Owner, "of_class", replacing)
        again.apply()
