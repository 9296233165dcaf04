"""The README says what is: versions, commands, files."""

import re
from pathlib import Path

import pytest

from mindformers_qwenvl import __version__
from mindformers_qwenvl.cli import main

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

ROOT = Path(__file__).parents[1]
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README_CN.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def row_of_this_version() -> list[str]:
    major_minor = ".".join(__version__.split(".")[:2])
    row = next(line for line in README.splitlines() if line.startswith(f"| {major_minor} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_supported_versions_are_those_of_the_package():
    required = {re.match(r"[\w-]+", text).group(): re.sub(r"^[\w-]+", "", text) for text in PROJECT["dependencies"]}
    _, mindformers, mindspore, python, _ = row_of_this_version()
    assert mindformers == required["mindformers"]
    assert mindspore == required["mindspore"]
    assert python == PROJECT["requires-python"]


def test_every_extra_that_is_named_exists():
    named = set(re.findall(r"\[(\w+)\]'|extra `\[(\w+)\]`", README))
    extras = {name for pair in named for name in pair if name}
    assert extras and extras <= PROJECT["optional-dependencies"].keys()


def test_every_command_that_is_named_exists(capsys):
    commands = set(re.findall(r"mindformers-qwenvl ([a-z][a-z-]+)", README))
    assert "demo" in commands
    for command in commands:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert "mindformers-qwenvl" in capsys.readouterr().out


def test_the_chinese_readme_has_the_same_commands_and_versions():
    def commands(text: str) -> list[str]:
        lines = "\n".join(re.findall(r"```shell\n(.*?)```", text, re.DOTALL)).splitlines()
        return [line.partition("  #")[0].strip() for line in lines if not line.startswith("#")]

    assert len(commands(CHINESE)) > 15
    assert set(commands(CHINESE)) <= set(commands(README))
    row = next(line for line in CHINESE.splitlines() if line.startswith(f"| {__version__.rpartition('.')[0]} |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][:4] == row_of_this_version()[:4]


@pytest.mark.parametrize("readme", [README, CHINESE], ids=["english", "chinese"])
def test_every_link_leads_somewhere(readme):
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    headings = {re.sub(r"[^\w-]", "", line.lstrip("# ").lower().replace(" ", "-")) for line in readme.splitlines()}
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_newest_changelog_entry_is_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)
    assert versions[0] == __version__
