"""What `pip install` would bring, asked of pip itself by dry runs: never another MindFormers or MindSpore."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import venv
from email.message import Message
from pathlib import Path

import pytest

from tests.support.installed import Environment, build_wheel

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What `pip install mindformers==1.8.0 mindspore==2.7.2` installs of what this package needs too.
HOST_1_8 = {
    "mindformers": ("1.8.0", ["mindspore~=2.7.2", "pyarrow==19.0.0", "numpy<2.0.0", "tiktoken"]),
    "mindspore": ("2.7.2", ["numpy<2.0.0,>=1.20.0", "pillow>=6.2.0", "safetensors>=0.4.0"]),
    "pyarrow": ("19.0.0", []),
    "numpy": ("1.26.4", []),
    "pillow": ("12.0.0", []),
    "pyyaml": ("6.0.2", []),
    "safetensors": ("0.6.2", []),
    "tiktoken": ("0.9.0", ["regex>=2022.1.18", "requests>=2.26.0"]),
    "regex": ("2025.1.1", []),
    "requests": ("2.32.0", []),
    "tqdm": ("4.67.0", []),
}
PLUGGY = {"pluggy": ("1.6.0", [])}  # the one package of ours that MindFormers does not bring


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def environment(root: Path, packages: dict) -> Environment:
    """One in which pip sees `packages` installed: it reads their metadata alone."""
    venv.create(root, symlinks=True, with_pip=False)
    made = Environment(root)
    for name, (version, requires) in packages.items():
        folder = made.packages / f"{name}-{version}.dist-info"
        folder.mkdir()
        metadata = Message()
        metadata["Metadata-Version"], metadata["Name"], metadata["Version"] = "2.1", name, version
        for requirement in requires:
            metadata["Requires-Dist"] = requirement
        (folder / "METADATA").write_text(metadata.as_string())
        (folder / "INSTALLER").write_text("pip\n")
        (folder / "RECORD").write_text("")
    return made


def would_install(made: Environment, *arguments: str) -> dict[str, str]:
    """Name -> version of all that pip would install or replace."""
    report = made.root / "report.json"
    command = [sys.executable, "-m", "pip", "--python", str(made.python), "install", "--quiet", "--dry-run"]
    done = subprocess.run([*command, "--report", str(report), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found}


def test_an_installed_pair_stays(wheel, tmp_path):
    made = environment(tmp_path / "env", {**HOST_1_8, **PLUGGY})
    assert would_install(made, "--no-index", str(wheel)).keys() == {"mindformers-qwenvl"}


@pytest.mark.parametrize("packages", [HOST_1_8 | PLUGGY, {**HOST_1_8, **PLUGGY, "mindformers": ("2.1.0", [])}])
def test_the_vocabulary_leaves_it_too(wheel, tmp_path, packages):
    """[vocab] is for machines with a pair of their own; pip may only add dashscope, which is there here."""
    made = environment(tmp_path / "env", {**packages, "dashscope": ("1.20.0", [])})
    assert would_install(made, "--no-index", f"{wheel}[vocab]").keys() == {"mindformers-qwenvl"}


def test_nothing_of_the_core_names_the_host():
    names = {re.match(r"[\w-]+", text).group() for text in PROJECT["dependencies"]}
    assert names == {"tiktoken", "pillow", "pluggy", "pyyaml", "safetensors", "tqdm", "numpy"}
    assert {re.match(r"[\w-]+", text).group() for text in PROJECT["optional-dependencies"]["host"]} == {
        "mindformers",
        "mindspore",
    }


@pytest.mark.parametrize("extra", ["demo", "test", "dev"])
def test_extras_that_run_something_bring_a_host(extra):
    """Each includes `host`, or an extra that does."""
    extras, seen, todo = PROJECT["optional-dependencies"], set(), [extra]
    while todo:
        name = todo.pop()
        seen.add(name)
        for requirement in extras[name]:
            found = re.fullmatch(r"mindformers-qwenvl\[([\w,]+)\]", requirement)
            todo += [other for other in (found[1].split(",") if found else ()) if other not in seen]
    assert "host" in seen


@pytest.mark.slow
def test_beside_a_stock_pair_pluggy_alone_comes_with_it(wheel, tmp_path):
    """With the package index: of what a stock 1.8 lacks, pip brings pluggy."""
    made = environment(tmp_path / "env", HOST_1_8)
    assert would_install(made, str(wheel)).keys() == {"mindformers-qwenvl", "pluggy"}


@pytest.mark.slow
def test_an_empty_machine_gets_one_pair(wheel, tmp_path):
    """[demo], with the package index: 1.9 and 2.9, and pip looks at no other MindSpore (each is 350 MB and more)."""
    made = environment(tmp_path / "env", {})
    report = would_install(made, f"{wheel}[demo]")
    assert report["mindformers"].startswith("1.9.")
    assert report["mindspore"].startswith("2.9.")
    assert {"matplotlib", "dashscope"} <= report.keys()


def test_the_source_archive_has_all_that_the_tests_need(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"mindformers_qwenvl", "yaml", "tests", "docs", "README.md", "pyproject.toml"} <= folders
