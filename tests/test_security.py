"""SECURITY.md: the tests that it names exist, and the bounds in it are those of the code."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
BOUNDS = re.findall(r"^\| .+ \| (\d+)\b[^|]* \| `([\w.]+):([\w.]+)` \|$", TEXT, re.MULTILINE)


def test_every_line_names_its_test():
    table = TEXT.partition("## What does not happen")[2].partition("## Bounds")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) == len(TESTS) > 20
    assert len(BOUNDS) == TEXT.count("`mindformers_qwenvl.")


@pytest.mark.parametrize(("file", "name"), TESTS, ids=[name for _, name in TESTS])
def test_the_tests_exist(file, name):
    assert re.search(rf"^ *def {name}\(", (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("value", "module", "name"), BOUNDS, ids=[name for *_, name in BOUNDS])
def test_the_bounds_are_those_of_the_code(value, module, name):
    assert reduce(getattr, name.split("."), importlib.import_module(module)) == int(value)
