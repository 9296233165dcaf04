"""A row is run: its environment, and pytest in it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.matrix.rows import CHECKS, Row

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    """What ran in a row."""

    versions: dict[str, str]
    checks: dict[str, dict[str, Any]]


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


# ---- running


VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({n: m.version(n) for n in ("mindformers", "mindspore")} | {"python": platform.python_version()}))
"""


def run(row: Row, base: Path, checks: list[str], logs: Path) -> Result:
    """Run `checks` in `row`, whose Python is that of the environment `base`."""
    with tempfile.TemporaryDirectory(prefix="mindformers-qwenvl-matrix-") as scratch:
        wheel = built_wheel(Path(scratch), base / "bin" / "python")
        python = with_this_package(base, Path(scratch) / "env", wheel)
        told = subprocess.run([str(python), "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
        return Result(json.loads(told), pytest(python, checks, logs / f"{row.name}.log"))


def pytest(python: Path, checks: list[str], log: Path) -> dict[str, dict[str, Any]]:
    """Counts and seconds of each check; slow tests too. What pytest prints goes to `log`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINDFORMERS_", "PYTHON"))}
    environment = {**kept, "PATH": f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("w") as out:
        xml = Path(folder) / "junit.xml"
        command = [
            str(python),
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-m",
            "",
            "--durations=0",
            f"--junitxml={xml}",
        ]
        command += [f"--basetemp={folder}/tests", "--durations-min=1"]
        # Those of a file side by side: they share its fixtures, such as a training.
        tests = sorted((test for check in checks for test in CHECKS[check]), key=lambda test: test.partition("::")[0])
        subprocess.run([*command, *tests], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
        cases = list(ElementTree.parse(xml).getroot().iter("testcase")) if xml.exists() else []
    return {check: counted(CHECKS[check], cases) for check in checks}


def counted(tests: tuple[str, ...], cases: list[ElementTree.Element]) -> dict[str, Any]:
    """What became of `tests`, of all cases that ran. A test of which no case ran, as after a crash, has failed."""
    found = {test: [case for case in cases if node(case) == test or node(case).startswith((f"{test}[", f"{test}::"))]
             for test in tests}  # fmt: skip
    own = [case for some in found.values() for case in some]
    bad = [node(case) for case in own if case.find("failure") is not None or case.find("error") is not None]
    bad += [test for test, some in found.items() if not some]
    skipped = sum(case.find("skipped") is not None for case in own)
    passed = sum(all(case.find(word) is None for word in ("failure", "error", "skipped")) for case in own)
    seconds = sum(float(case.get("time", 0)) for case in own)
    return {"passed": passed, "failed": len(bad), "skipped": skipped, "failures": bad, "seconds": round(seconds)}


def node(case: ElementTree.Element) -> str:
    """`tests/a/test_b.py::test_c[d]`, as pytest takes it on its command line."""
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
