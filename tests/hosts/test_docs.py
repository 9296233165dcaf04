"""docs/hosts.md, its Chinese page, pyproject.toml and the matrix say the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mindformers_qwenvl import versions
from tests.matrix import running, tables
from tests.matrix.rows import CHECKS, ROWS

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENGLISH, CHINESE = (path.read_text(encoding="utf-8") for path in tables.DOCUMENTS)
RECORD = tables.read_record()


def section(text: str) -> str:
    return text.partition(tables.BEGIN)[2].partition(tables.END)[0].strip()


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def within(version: str, bounds: str) -> bool:
    """Whether `1.9.0` is within `>=1.9,<2.0`."""
    found = re.findall(r"(>=|<)([\d.]+)", bounds)
    assert found, bounds
    return all(number(version) >= number(at) if sign == ">=" else number(version) < number(at) for sign, at in found)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_the_table_is_what_ran(text):
    assert section(text) == tables.table(RECORD)


@pytest.mark.parametrize("page", tables.READMES, ids=lambda page: page.name)
@pytest.mark.skipif(not RECORD["rows"], reason="the matrix has not been run")
def test_the_readme_says_what_ran(page):
    assert tables.readme_row(page).endswith(f" | {tables.seen(RECORD)} ({tables.READMES[page]}) |")
    # None of the rows that ran is left out, and none is made up.
    versions = [found["versions"] for found in RECORD["rows"].values()]
    assert set(re.findall(r"\d+\.\d+\.\d+", tables.seen(RECORD))) == {one["mindformers"] for one in versions}


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_a_row_that_was_not_run_says_so(text):
    missing = [row for row in ROWS if row.name not in RECORD["rows"]]
    assert section(text).count("not run yet") == len(missing)


def test_a_row_that_was_run_passed_all_checks():
    assert RECORD["rows"].keys() <= {row.name for row in ROWS}
    for row in ROWS:
        found = RECORD["rows"].get(row.name)
        if found is None:
            continue
        assert found["versions"]["mindformers"] == row.mindformers
        assert found["versions"]["mindspore"] == row.mindspore
        assert found["versions"]["python"].startswith(f"{row.python}.")
        assert found["checks"].keys() == CHECKS.keys()
        assert all(check["passed"] for check in found["checks"].values())


def test_the_rows_are_the_pairs_that_are_supported():
    run = {versions.pair_of(row.mindformers) for row in ROWS}
    assert run == {pair for pair in versions.PAIRS if pair.mindformers != "2.0"}  # not installable from the index
    for row in ROWS:
        assert versions.belongs(versions.pair_of(row.mindformers), row.mindspore)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_every_pair_is_in_the_first_table(text):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    for pair in versions.PAIRS:
        (row,) = [row for row in rows if row[0] == pair.mindformers and len(row) == 4]
        assert versions.release(row[1]) == versions.release(pair.mindspore[0])
        assert row[2] == pair.cann


def test_the_extra_host_is_a_row():
    bounds = {re.match(r"[\w-]+", text).group(): text for text in PROJECT["optional-dependencies"]["host"]}
    (chosen,) = [row for row in ROWS if within(row.mindformers, bounds["mindformers"]) and row.python == "3.11"]
    assert within(chosen.mindspore, bounds["mindspore"])


def test_every_python_that_is_allowed_was_run():
    pythons = {row.python for row in ROWS}
    assert pythons == {version for version in ("3.9", "3.10", "3.11", "3.12", "3.13")
                       if within(version, PROJECT["requires-python"])}  # fmt: skip


def test_the_tests_of_the_matrix_exist():
    for check, tests in CHECKS.items():
        assert tests, check
        for file, _, name in (test.partition("[")[0].partition("::") for test in tests):
            path = ROOT / file
            assert path.exists(), file
            assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), name


def test_what_became_of_the_tests_of_a_check():
    """One that passed twice, one that failed, one that was skipped, one that a crash left out."""
    report = """<testsuite>
      <testcase classname="tests.a.test_b" name="test_c[one]" time="1.6"/>
      <testcase classname="tests.a.test_b" name="test_c[two]" time="0.2"/>
      <testcase classname="tests.a.test_b" name="test_cd" time="9"/>
      <testcase classname="tests.a.test_b" name="test_e[x]" time="1"><error/></testcase>
      <testcase classname="tests.a.test_f" name="test_g" time="1"><skipped/></testcase>
    </testsuite>"""
    cases = list(ElementTree.fromstring(report))
    tests = [f"tests/a/test_{name}" for name in ("b.py::test_c", "b.py::test_e[x]", "f.py", "h.py::test_i")]
    assert running.counted(tuple(tests), cases) == {
        "passed": 2,
        "failed": 2,
        "skipped": 1,
        "failures": ["tests/a/test_b.py::test_e[x]", "tests/a/test_h.py::test_i"],
        "seconds": 4,
    }


def test_a_table_of_a_record():
    counted = {"passed": 3, "failed": 0, "skipped": 0, "seconds": 90, "failures": []}
    versions = {"mindformers": "1.8.0", "mindspore": "2.7.2", "python": "3.11.7"}
    checks = {"logits": counted, "doors": {**counted, "failed": 1}}
    header, _, *rows = tables.table({"rows": {"1.8": {"versions": versions, "checks": checks}}}).splitlines()
    (row,) = [row for row in rows if "not run yet" not in row]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (cells["logits"], cells["doors"], cells["chat"]) == ("3", "**3 of 4**", "–")
    assert row.startswith("| 1.8.0 | 2.7.2 | 3.11.7 |") and row.endswith("| 3 |")


def test_what_is_said_of_a_record_in_the_readme():
    rows = {"1.8": ("1.8.0", "3.11.7"), "py3.10": ("1.9.0", "3.10.13"), "1.9": ("1.9.0", "3.11.7")}
    record = {name: {"versions": {"mindformers": host, "python": python}} for name, (host, python) in rows.items()}
    assert tables.seen({"rows": record}) == "CPU: MindFormers 1.8.0, 1.9.0; Python 3.10, 3.11"
