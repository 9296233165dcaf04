"""`mindformers-qwenvl yaml`, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.recipes import read
from mindformers_qwenvl.registration import yaml_dir

FILES = sorted(yaml_dir().glob("*.yaml"))
BASE, OVERLAY = "finetune_qwenvl_9.6b.yaml", "finetune_qwenvl_9.6b_bf16.yaml"


def test_list_says_what_each_is(capsys):
    assert main(["yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [file.stem for file in FILES]
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("name", ["finetune_qwenvl_9.6b", OVERLAY])
def test_print(name, capsys):
    assert main(["yaml", name]) == 0
    file = yaml_dir() / f"{name.removesuffix('.yaml')}.yaml"
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")


def test_print_resolved(capsys):
    assert main(["yaml", "finetune_qwenvl_9.6b_bf16", "--resolved"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# finetune_qwenvl_9.6b_bf16, with what it builds on")
    assert yaml.safe_load(printed) == read(yaml_dir() / OVERLAY)
    assert "base_config" not in yaml.safe_load(printed)


def test_resolved_of_the_users_own_file(capsys):
    Path("mine.yaml").write_text("base_config: base.yaml\na: {b: 2}\n")
    Path("base.yaml").write_text("a: {b: 1, c: 1}\n")
    assert main(["yaml", "mine.yaml", "--resolved"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {"a": {"b": 2, "c": 1}}
    Path("base.yaml").write_text("a: [\n")
    assert main(["yaml", "mine.yaml", "--resolved"]) == 1
    assert "base.yaml, line 2, column 1: not valid YAML" in capsys.readouterr().err


def test_path(capsys):
    assert main(["yaml", "predict_qwenvl_9.6b", "--path"]) == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert Path(path).is_absolute() and Path(path).samefile(yaml_dir() / "predict_qwenvl_9.6b.yaml")


def test_copy_one_and_all(capsys):
    assert main(["yaml", "predict_qwenvl_tiny", "--copy", "one"]) == 0
    assert [file.name for file in Path("one").iterdir()] == ["predict_qwenvl_tiny.yaml"]
    assert main(["yaml", "--copy", "new/all"]) == 0
    assert sorted(file.name for file in Path("new/all").iterdir()) == [file.name for file in FILES]
    for file in FILES:
        assert (Path("new/all") / file.name).read_bytes() == file.read_bytes()
    assert "new/all/finetune_qwenvl_9.6b.yaml" in capsys.readouterr().out


def test_copy_brings_the_base_along(capsys):
    assert main(["yaml", OVERLAY, "--copy", "."]) == 0
    assert capsys.readouterr().out.splitlines() == [OVERLAY, BASE]
    for name in (OVERLAY, BASE):
        assert Path(name).read_bytes() == (yaml_dir() / name).read_bytes()
    assert main(["yaml", OVERLAY, "--copy", "."]) == 0  # the same again is not in the way


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_copy_leaves_a_changed_base_alone(force, capsys):
    """--force is for what is named; the base has the user's paths in it."""
    Path(BASE).write_text("mine: True\n")
    assert main(["yaml", OVERLAY, "--copy", ".", *force]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [OVERLAY]
    assert f"{BASE} was there and has changes: left as it is" in printed.err
    assert Path(BASE).read_text() == "mine: True\n"
    assert read(OVERLAY)["mine"] is True


def test_copy_resolved_is_one_file():
    assert main(["yaml", OVERLAY, "--resolved", "--copy", "."]) == 0
    assert [file.name for file in Path.cwd().iterdir()] == [OVERLAY]
    assert read(OVERLAY) == read(yaml_dir() / OVERLAY)


def test_copy_overwrites_only_when_told_to(capsys):
    mine = Path("predict_qwenvl_tiny.yaml")
    mine.write_text("mine: True\n")
    assert main(["yaml", "--copy", "."]) == 1
    assert "predict_qwenvl_tiny.yaml" in capsys.readouterr().err
    assert [file.name for file in Path.cwd().glob("*.yaml")] == [mine.name]  # none of the others was written either
    assert mine.read_text() == "mine: True\n"
    assert main(["yaml", mine.name, "--copy", ".", "--force"]) == 0
    assert mine.read_bytes() == (yaml_dir() / mine.name).read_bytes()


@pytest.mark.parametrize("name", ["finetune_qwenvl", "../yaml/finetune_qwenvl_9.6b", "gone.yaml"])
@pytest.mark.parametrize("options", [[], ["--resolved"], ["--copy", "."]])
def test_unknown_name(name, options, capsys):
    assert main(["yaml", name, *options]) == 1
    error = capsys.readouterr().err
    assert repr(name) in error and "finetune_qwenvl_9.6b_bf16" in error


@pytest.mark.parametrize(
    "words", [["--path", "--copy", "."], ["--resolved"], ["finetune_qwenvl_tiny", "--resolved", "--path"]]
)
def test_bad_usage(usage_error, words):
    assert usage_error("yaml", *words)
