"""README and docs say what is: versions, commands, flags, files, links; and each page says the same in Chinese."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from mindformers_qwenvl import __version__, versions
from mindformers_qwenvl.cli import main
from mindformers_qwenvl.demo import demonstration, shapes
from mindformers_qwenvl.recipes import shipped
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary
from tests.support import lora
from tests.support.golden import golden_set, write_checkpoint

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "README_CN.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)
PAIRS = [("README.md", "README_CN.md")] + [
    (f"docs/{path.name}", f"docs/zh/{path.name}") for path in sorted((ROOT / "docs/zh").glob("*.md"))
]


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str = r"\w+") -> list[tuple[str, str]]:
    """(language, code) of each code block."""
    return re.findall(rf"^```({language})\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ .*$", prose(page), re.MULTILINE)


def row_of_this_version(page: str = "README.md") -> list[str]:
    major_minor = ".".join(__version__.split(".")[:2])
    row = next(line for line in text_of(page).splitlines() if line.startswith(f"| {major_minor} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 150
    assert len(text_of("README_CN.md").splitlines()) <= 150


@pytest.mark.parametrize("page", ["README.md", "README_CN.md"])
def test_supported_versions_are_those_of_the_package(page):
    """First and last supported version of each, what `[host]` installs, and the Pythons that pip accepts."""

    def in_cell(cell: str) -> list[str]:
        return re.findall(r"\d+\.\d+", re.sub(r"\]\([^)]*\)", "]", cell))

    def minor(version: str) -> int:
        return int(version.partition(".")[2])

    _, mindformers, mindspore, host, python, _ = row_of_this_version(page)
    assert in_cell(mindformers) == [versions.PAIRS[0].mindformers, versions.PAIRS[-1].mindformers]
    assert in_cell(mindspore) == [versions.PAIRS[0].mindspore[0], versions.PAIRS[-1].mindspore[0]]
    required = dict(re.match(r"([\w-]+)>=([\d.]+)", text).groups() for text in PROJECT["optional-dependencies"]["host"])
    assert in_cell(host) == [required["mindformers"], required["mindspore"]]
    first, after_last = re.findall(r"3\.\d+", PROJECT["requires-python"])
    assert in_cell(python)[0] == first and minor(in_cell(python)[1]) == minor(after_last) - 1


def test_the_test_command_is_marked():
    """`.ci/run` takes it from the README."""
    (command,) = re.findall(r"<!-- test command -->\n```shell\n(.*)\n```\n<!-- /test command -->", text_of("README.md"))
    assert command.startswith("pip install '.[test]' && python -m pytest")


@pytest.mark.parametrize("page", PAGES)
def test_every_extra_that_is_named_exists(page):
    named = set(re.findall(r"'\.?(?:mindformers-qwenvl)?\[(\w+)\]'|`\[(\w+)\]`", text_of(page)))
    assert {name for pair in named for name in pair if name} <= PROJECT["optional-dependencies"].keys()


@cache
def help_of(command: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0, command
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_that_is_named_exists(page):
    """Of this package; those of `run_mindformer.py` are MindFormers'."""
    joined = text_of(page).replace("\\\n", " ")
    for command in re.findall(r"(?:`|^|& )mindformers-qwenvl ([a-z][a-z-]+)", joined, re.MULTILINE):
        help_of(command)
    lines = [line for _, code in blocks(page, "shell|bash") for line in code.replace("\\\n", " ").splitlines()]
    for line in lines:
        _, found, rest = line.partition("mindformers-qwenvl ")
        if not found or line.startswith("git"):
            continue
        command, *words = shlex.split(rest, comments=True)
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", help_of(command)), f"{line}: {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_its_language(page):
    """The other tests find blocks by it."""
    fences = re.findall(r"^```(.*)$", text_of(page), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fences[::2]) and not any(fences[1::2])


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_that_is_named_exists(page):
    named = set(re.findall(r"\b((?:finetune|predict)_qwenvl_(?:9\.6b|tiny)\w*)", text_of(page)))
    assert named <= set(shipped())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    def anchors(other: str) -> set[str]:
        return {re.sub(r"[^\w-]", "", line.lstrip("# ").lower().replace(" ", "-")) for line in headings(other)}

    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(str(path.resolve().relative_to(ROOT))), target


def test_every_page_is_linked_to_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^)#]+)", text_of("README.md") + text_of("README_CN.md")))
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_are_in_step(english, chinese):
    """The same headings, tables and commands; comments and prose are translated."""

    def outline(page: str) -> list[int]:
        return [len(line.partition(" ")[0]) for line in headings(page)]

    def rows(page: str) -> int:
        return len(re.findall(r"^\|", prose(page), re.MULTILINE))

    def commands(page: str) -> list[tuple[str, list[str]]]:
        return [
            (language, [re.sub(r"(^|\s+)# .*$", "", line) for line in code.splitlines()])
            for language, code in blocks(page)
        ]

    assert outline(english) == outline(chinese)
    assert rows(english) == rows(chinese)
    assert commands(english) == commands(chinese)
    assert re.search("[一-鿿]", "".join(headings(chinese)))


def test_the_pages_a_user_needs_are_in_chinese():
    assert {chinese for _, chinese in PAIRS} >= {
        "README_CN.md",
        *(f"docs/zh/{name}.md" for name in ("train", "data", "predict", "weights")),
    }


# Page -> the block of commands, and the blocks of text that show what it prints.
PRINTED = {
    "docs/cards.md": (0, [1]),
    "docs/data.md": (1, [2, 3]),
    "docs/weights.md": (0, [1]),
    "docs/yaml.md": (1, [2]),
}


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is missing")
@pytest.mark.parametrize("page", PRINTED)
def test_examples_print_what_the_page_shows(page, tmp_path):
    """Each line that is shown, in order; `...` stands for lines that are left out, and times differ."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    if page == "docs/data.md":
        demo = tmp_path / "qwenvl_demo"
        shapes.write_dataset(demo / "train", 1, seed=7)
        ranks = find_vocabulary().read_bytes().splitlines(keepends=True)[: demonstration.RANKS]
        (demo / "qwen.tiktoken").write_bytes(b"".join(ranks))
        demonstration._yaml("finetune_qwenvl_tiny", demo)
    command, shown = PRINTED[page]
    ours = f'mindformers-qwenvl() {{ "{sys.executable}" -m mindformers_qwenvl "$@"; }}'
    python = f'python() {{ "{sys.executable}" "$@"; }}'
    code = f"{ours}\n{python}\n{blocks(page)[command][1]}"
    told = {"env": {**os.environ, "PYTHONUNBUFFERED": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, text=True, check=False, **told)
    printed = iter(done.stdout.splitlines())
    for line in (line for number in shown for line in blocks(page)[number][1].splitlines()):
        if line and line != "..." and not line.startswith("took "):
            assert line in printed, f"{line!r} is not printed, or not here:\n{done.stdout}"


PYTHON = [(page, number) for page in PAGES for number, _ in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number"), PYTHON)
def test_python_examples_are_python_in_graph_mode(page, number):
    code = blocks(page, "python")[number][1]
    ast.parse(code)
    if re.search(r"^(import|from) ", code, re.MULTILINE) and re.search(r"QwenVL\.from_pretrained\(|pipeline\(", code):
        assert "set_context(mode=mindspore.GRAPH_MODE)" in code


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/predict.md", "docs/evaluate.md", "docs/adapters.md"])
def test_python_examples_run(page, tmp_path):
    """One after the other, as a reader pastes them. The models are tiny and random; their answers have no box."""
    images = golden_set("a56").directory / "images"
    write_checkpoint("a56", tmp_path / "Qwen-VL")
    shutil.copytree(tmp_path / "Qwen-VL", tmp_path / "Qwen-VL-Chat")
    for name in ("adapter_a", "adapter_b"):
        lora.copy(tmp_path / name)
    for name in ("a.png", "dog.jpg"):
        shutil.copy(images / "0.png", tmp_path / name)
    code = "\n".join(code for _, code in blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_newest_changelog_entry_is_this_version():
    versions = re.findall(r"^## \[([\d.]+)\]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == __version__
