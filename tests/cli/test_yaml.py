"""`mindformers-qwenvl yaml`, as typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.registration import yaml_dir

FILES = sorted(yaml_dir().glob("*.yaml"))


def test_list_says_what_each_is(capsys):
    assert main(["yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [file.stem for file in FILES]
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("name", ["finetune_qwenvl_9.6b", "finetune_qwenvl_9.6b.yaml"])
def test_print(name, capsys):
    assert main(["yaml", name]) == 0
    assert capsys.readouterr().out == (yaml_dir() / "finetune_qwenvl_9.6b.yaml").read_text(encoding="utf-8")


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


def test_copy_overwrites_only_when_told_to(capsys):
    mine = Path("predict_qwenvl_tiny.yaml")
    mine.write_text("mine: True\n")
    assert main(["yaml", "--copy", "."]) == 1
    assert "predict_qwenvl_tiny.yaml" in capsys.readouterr().err
    assert [file.name for file in Path.cwd().glob("*.yaml")] == [mine.name]  # none of the others was written either
    assert mine.read_text() == "mine: True\n"
    assert main(["yaml", mine.name, "--copy", ".", "--force"]) == 0
    assert mine.read_bytes() == (yaml_dir() / mine.name).read_bytes()


@pytest.mark.parametrize("name", ["finetune_qwenvl", "../yaml/finetune_qwenvl_9.6b"])
def test_unknown_name(name, capsys):
    assert main(["yaml", name]) == 1
    error = capsys.readouterr().err
    assert repr(name) in error and "finetune_qwenvl_9.6b_bf16" in error


def test_bad_usage(usage_error):
    assert usage_error("yaml", "--path", "--copy", ".")
