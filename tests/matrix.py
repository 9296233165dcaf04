"""The host matrix: every supported pair of MindFormers and MindSpore, and every Python, in environments of their own.

    python -m tests.matrix            # make what is missing, run all rows, write docs/hosts.json and the tables
    python -m tests.matrix --rows 1.8,2.1 --checks logits,doors
    python -m tests.matrix --use 1.8=DIR     # an environment that has the host and the packages of the tests
    python -m tests.matrix --write           # run nothing: write the tables again from docs/hosts.json

An environment is made once, in --environments (default: ~/.cache/mindformers-qwenvl-matrix), about 3.5 GB each. For a
run this package is installed, as a wheel of this checkout, into a folder of links to it: environments stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "hosts.json"
DOCUMENTS = (ROOT / "docs" / "hosts.md", ROOT / "docs" / "zh" / "hosts.md")
BEGIN, END = "<!-- matrix: written by tests/matrix.py -->", "<!-- /matrix -->"

# What the tests need beside the host; mindformers-qwenvl[test] without the pair.
TESTS = (
    *("tiktoken", "pillow", "pluggy", "pyyaml", "safetensors", "tqdm", "dashscope<2", "matplotlib", "pytest>=8"),
    *("pytest-xdist", "hypothesis", "fonttools", "hatchling", "editables"),
)
# Of MindFormers 2.1.0, whose own requirements do not resolve: its transformers, pyarrow 26 and hyper-parallel.
OF_2_1 = (
    *("transformers==4.57.1", "pyarrow==23.*", "sentencepiece", "ftfy", "regex", "jieba", "rouge_chinese"),
    *("nltk==3.9.1", "mindpet==1.0.4", "opencv-python-headless", "tokenizers", "astunparse", "numpy<2", "jinja2"),
    *("setproctitle", "tensorboardX", "deprecated", "pybind11", "datasets", "setuptools<82"),
)


@dataclass(frozen=True)
class Row:
    """A pair and a Python. `install`: arguments of pip, one tuple a call."""

    name: str
    mindformers: str
    mindspore: str
    python: str = "3.11"
    install: tuple[tuple[str, ...], ...] = ()

    def commands(self) -> tuple[tuple[str, ...], ...]:
        return self.install or ((f"mindformers=={self.mindformers}", f"mindspore=={self.mindspore}", *TESTS),)


ROWS = (
    Row("1.7", "1.7.0", "2.7.2"),
    Row("1.8", "1.8.0", "2.7.2"),
    Row("1.9", "1.9.0", "2.9.0"),
    Row(
        "2.1", "2.1.0", "2.10.0", install=(("mindspore==2.10.0", *OF_2_1, *TESTS), ("--no-deps", "mindformers==2.1.0"))
    ),
    Row("py3.10", "1.9.0", "2.9.0", "3.10"),
    Row("py3.12", "1.9.0", "2.9.0", "3.12"),
)

# Heading of a column -> the tests that stand for it.
CHECKS: dict[str, tuple[str, ...]] = {
    "discovery": ("tests/discovery/test_installed.py", "tests/test_registration.py"),
    "logits": ("tests/model/test_logits.py", "-k", "a56 or b224"),
    "gradients": ("tests/model/test_training.py", "-k", "test_loss_and_gradients and a56 or curve_full and a56"),
    "cached generation": ("tests/model/test_generate.py", "tests/model/test_cache.py", "-k", "not c448"),
    "chat": ("tests/chat/test_chat.py",),
    "train and resume": (
        "tests/stock/test_trainer.py::test_training_learns_and_saves",
        "tests/stock/test_trainer.py::test_resumed_losses_are_those_of_the_uninterrupted_training",
        "tests/stock/test_trainer.py::test_the_trained_checkpoint_answers",
        "tests/stock/test_data_parallel.py::test_one_killed_process_goes_on_from_safetensors",
    ),
    "two processes": (
        "tests/stock/test_data_parallel.py::test_two_workers_are_one_with_the_same_batches",
        "tests/stock/test_data_parallel.py::test_two_killed_workers_go_on_as_if_nothing_had_been",
        "tests/stock/test_data_parallel.py::test_the_newer_section_saves_once_and_goes_on",
        "tests/stock/test_msrun.py",
    ),
    "predict": ("tests/stock/test_trainer.py", "-k", "greedy"),
    "convert": (
        "tests/weights/convert/test_convert.py",
        "tests/stock/test_trainer.py::test_the_checkpoint_of_a_training_goes_back_to_the_original_layout",
    ),
    "doors": ("tests/stock/test_doors.py",),
    "PyNative": ("tests/hosts/test_pynative.py",),
    "run and doctor": ("tests/launch", "tests/doctor"),
}


@dataclass
class Result:
    """What ran in a row."""

    versions: dict[str, str]
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)


# ---- environments


def interpreter(version: str) -> str | None:
    """A Python of this version: the running one, one on the PATH, or one of pyenv."""
    if platform.python_version().startswith(f"{version}."):
        return getattr(sys, "_base_executable", sys.executable)
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = sorted((root / "versions").glob(f"{version}.*/bin/python"))
    return str(candidates[-1]) if candidates else None


def environment(row: Row, folder: Path) -> Path:
    """The environment of `row` in `folder`, made now if it is not there."""
    root = folder / f"mindformers-{row.mindformers}-mindspore-{row.mindspore}-python-{row.python}"
    if (root / "complete").exists():
        return root
    python = interpreter(row.python)
    if python is None:
        raise LookupError(f"there is no Python {row.python} on this machine")
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, "-m", "venv", str(root)], check=True)
    for arguments in row.commands():
        subprocess.run([str(root / "bin" / "pip"), "install", "--quiet", *arguments], check=True)
    (root / "complete").touch()
    return root


def with_this_package(base: Path, root: Path, wheel: Path) -> Path:
    """Python of a new environment at `root`: links to the packages of `base`, and this package."""
    python = base / "bin" / "python"
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(root)], check=True)
    (packages,) = (root / "lib").glob("python3*/site-packages")
    for entry in (base / "lib" / packages.parent.name / "site-packages").iterdir():
        own = entry.name.startswith(("mindformers_qwenvl", "_mindformers_qwenvl", "__editable__", "_editable_impl"))
        if not own and entry.suffix != ".pth" and entry.name != "__pycache__":
            (packages / entry.name).symlink_to(entry)
    new = root / "bin" / "python"
    command = [str(new), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True)
    return new


def built_wheel(folder: Path, python: Path) -> Path:
    command = [str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    return next(folder.glob("mindformers_qwenvl-*.whl"))


VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({n: m.version(n) for n in ("mindformers", "mindspore")} | {"python": platform.python_version()}))
"""


# ---- running


def run(row: Row, base: Path, checks: list[str], logs: Path) -> Result:
    """Run `checks` in `row`."""
    with tempfile.TemporaryDirectory(prefix="mindformers-qwenvl-matrix-") as scratch:
        wheel = built_wheel(Path(scratch), base / "bin" / "python")
        python = with_this_package(base, Path(scratch) / "env", wheel)
        told = subprocess.run([str(python), "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
        result = Result(json.loads(told))
        for check in checks:
            result.checks[check] = counted = pytest(python, CHECKS[check], logs / f"{row.name}-{check}.log")
            said = "ok" if counted["passed"] and not counted["failed"] else "FAILED"
            print(f"{row.name:7} {check:18} {said:6} {counted['passed']} passed, {counted['failed']} failed, "
                  f"{counted['skipped']} skipped, {counted['seconds']:.0f} s", flush=True)  # fmt: skip
    return result


def pytest(python: Path, arguments: tuple[str, ...], log: Path) -> dict[str, Any]:
    """Counts and seconds; slow tests too. What it prints goes to `log`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINDFORMERS_", "PYTHON"))}
    environment = {**kept, "PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"}
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("w") as out:
        xml = Path(folder) / "junit.xml"
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "", "--durations=30", f"--junitxml={xml}"]
        done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        failed = []
        if xml.exists():
            suites = list(ElementTree.parse(xml).getroot().iter("testsuite"))
            counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in counts}
            for case in (case for suite in suites for case in suite.iter("testcase")):
                if case.find("failure") is not None or case.find("error") is not None:
                    failed.append(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}")
    bad = counts["failures"] + counts["errors"]
    return {
        "passed": counts["tests"] - bad - counts["skipped"],
        "failed": bad or int(done.returncode != 0),  # a crash leaves no counts
        "skipped": counts["skipped"],
        "failures": failed,
        "seconds": round(time.monotonic() - began),
    }


# ---- the record and the tables


def read_record() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {"rows": {}}


def add(record: dict[str, Any], row: Row, result: Result) -> None:
    """Put what ran into the record; checks that did not run this time stay, if the versions do."""
    before = record["rows"].get(row.name, {})
    kept = before.get("checks", {}) if before.get("versions") == result.versions else {}
    record["rows"][row.name] = {"versions": result.versions, "checks": {**kept, **result.checks}}


def cell(counted: dict[str, Any] | None) -> str:
    if counted is None:
        return "–"
    tests = counted["passed"] + counted["failed"]
    return f"{counted['passed']}" if not counted["failed"] else f"**{counted['passed']} of {tests}**"


def table(record: dict[str, Any]) -> str:
    """The table of docs/hosts.md: tests that passed, of each check; a row that was not run says so."""
    lines = [f"| MindFormers | MindSpore | Python | {' | '.join(CHECKS)} | minutes |", "|---" * (len(CHECKS) + 4) + "|"]
    for row in ROWS:
        found = record["rows"].get(row.name)
        if found is None:
            cells = [row.mindformers, row.mindspore, row.python, *(cell(None) for _ in CHECKS), "not run yet"]
            lines.append(f"| {' | '.join(cells)} |")
            continue
        versions, checks = found["versions"], found["checks"]
        cells = [cell(checks.get(check)) for check in CHECKS]
        minutes = sum(counted["seconds"] for counted in checks.values()) / 60
        pair = [versions["mindformers"], versions["mindspore"], versions["python"]]
        lines.append(f"| {' | '.join([*pair, *cells, f'{minutes:.0f}'])} |")
    return "\n".join(lines)


def write(record: dict[str, Any]) -> None:
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        document.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindformers-qwenvl-matrix"
    parser.add_argument("--environments", type=Path, default=cache, metavar="DIR", help=f"(default: {cache})")
    parser.add_argument("--use", action="append", default=[], metavar="ROW=DIR", help="take this environment for a row")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="comma list (default: all)")
    parser.add_argument("--checks", default=",".join(CHECKS), help="comma list (default: all)")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "mindformers-qwenvl-matrix-logs")
    parser.add_argument("--write", action="store_true", help="run nothing, write the tables from docs/hosts.json")
    args = parser.parse_args(argv)
    record = read_record()
    if args.write:
        write(record)
        return 0
    given = dict(item.split("=", 1) for item in args.use)
    rows, checks = [_named(ROWS, name) for name in args.rows.split(",")], _checks(args.checks)
    for row in rows:
        try:
            base = Path(given[row.name]) if row.name in given else environment(row, args.environments)
        except (LookupError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: not run: {error}", flush=True)
            continue
        add(record, row, run(row, base, checks, args.logs))
        write(record)
    failed = [name for name, row in record["rows"].items() for one in row["checks"].values() if one["failed"]]
    print(f"logs: {args.logs}")
    return int(bool(failed))


def _named(rows: tuple[Row, ...], name: str) -> Row:
    found = [row for row in rows if row.name == name.strip()]
    if not found:
        raise SystemExit(f"no row {name!r}; there are {', '.join(row.name for row in rows)}")
    return found[0]


def _checks(names: str) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in CHECKS]
    if unknown:
        raise SystemExit(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
