"""An environment without MindFormers and MindSpore: what works there works, all else says what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mindformers_qwenvl.registration import yaml_dir
from tests.support.golden import golden_set
from tests.support.installed import Environment, build_wheel, new_environment

NEEDS = {"chat", "demo", "plugins", "predict", "run", "serve"}
# `evaluate` scores answers without it, and says what is missing when it is asked to answer.
WITHOUT = {"check-data", "convert-data", "convert-weight", "doctor", "estimate", "evaluate", "plot", "yaml"}
A56 = golden_set("a56")


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Environment:
    """This package, and all packages of the running environment but MindFormers and MindSpore."""
    folder = tmp_path_factory.mktemp("bare")
    environment = new_environment(folder / "env")
    for entry in (folder / "env" / "outer").iterdir():
        if entry.name.startswith(("mindformers", "mindspore")):
            entry.unlink()
    environment.pip("install", "--no-deps", "--no-index", str(build_wheel(folder)))
    return environment


@pytest.fixture
def command(bare, tmp_path):
    def run(*words: str, check: bool = True):
        return bare.run("-m", "mindformers_qwenvl", *words, cwd=tmp_path, check=check)

    return run


def test_every_command_is_on_one_side():
    from mindformers_qwenvl import cli

    assert cli._commands().keys() == NEEDS | WITHOUT, "say in NEEDS or WITHOUT whether the new command needs the host"
    assert not NEEDS & WITHOUT


WORDS = {
    "chat": ["--model", "x"],
    "evaluate": ["--task", "docvqa", "--model", "x", "--data", "x.jsonl", "--output", "scores"],
    "predict": ["--model", "x", "Hello"],
    "run": ["--config", "finetune_qwenvl_tiny"],
    "serve": ["--model", "x"],
}


# Several command lines in one process: name -> exit code, standard output, standard error.
SEVERAL = """
import contextlib, io, json, sys
from mindformers_qwenvl.cli import main

found = {}
for name, words in json.loads(sys.argv[1]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([name, *words])
        except SystemExit as end:
            code = end.code
    found[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(found))
"""


def several(bare: Environment, folder: Path, words: dict[str, list[str]]) -> dict[str, list]:
    return json.loads(bare.run("-c", SEVERAL, json.dumps(words), cwd=folder).stdout)


def test_one_sentence(bare, tmp_path):
    found = several(bare, tmp_path, {name: WORDS.get(name, []) for name in sorted(NEEDS | {"evaluate"})})
    for name, (code, out, err) in found.items():
        assert (code, out) == (1, ""), name
        (line,) = err.splitlines()
        assert line.startswith(
            f"mindformers-qwenvl {name}: MindFormers 1.7 or later and the MindSpore that belongs to it"
        )
        assert "neither is installed: pip install 'mindformers-qwenvl[host]'" in line


def test_help(bare, tmp_path):
    for name, (code, out, _) in several(bare, tmp_path, {name: ["--help"] for name in NEEDS | WITHOUT}).items():
        assert code == 0 and f"usage: mindformers-qwenvl {name}" in out, name


def test_too_old(bare, tmp_path):
    for name, version in (("mindformers", "1.6.0"), ("mindspore", "2.7.2")):
        (tmp_path / "old" / name).mkdir(parents=True)
        (tmp_path / "old" / name / "__init__.py").write_text(f'__version__ = "{version}"\nraise SystemExit(3)\n')
    done = bare.run("-m", "mindformers_qwenvl", "demo", cwd=tmp_path, check=False, PYTHONPATH=str(tmp_path / "old"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "MindFormers 1.6.0 with MindSpore 2.7.2 is installed" in line


def test_python(bare, tmp_path):
    done = bare.run("-c", "from mindformers_qwenvl import QwenVL", cwd=tmp_path, check=False)
    assert done.stderr.splitlines()[-1].startswith("mindformers_qwenvl.versions.HostError: MindFormers 1.7 or later")


def test_convert_weight(command, checkpoint_dir, tmp_path):
    original = checkpoint_dir("a56")
    command("convert-weight", "--input_path", str(original), "--output_path", "ours")
    command("convert-weight", "--input_path", "ours", "--output_path", "back", "--reverse", "--verify")
    command("convert-weight", "--input_path", str(original), "--output_path", "ours.ckpt")
    assert (tmp_path / "back" / "config.json").is_file()
    assert (tmp_path / "ours.ckpt").stat().st_size > 1_000_000


def test_data(command, tmp_path):
    shutil.copytree(A56.directory / "images", tmp_path / "images")
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "llava.json").write_text(json.dumps([{"id": "1", "image": "0.png", "conversations": talk}] * 32))
    words = ["--data_path", "llava.json", "--image_location", "images", "--output_path", "train.json"]
    command("convert-data", *words)
    shutil.copy(A56.vocab_file, tmp_path)
    shutil.copy(yaml_dir() / "finetune_qwenvl_tiny.yaml", tmp_path)
    done = command("check-data", "train.json", "--yaml", "finetune_qwenvl_tiny.yaml", "--dataset_dir", "images")
    assert "samples   32, 32 could be laid out" in done.stdout


def test_estimate_and_yaml(command):
    assert "finetune_qwenvl_9.6b" in command("yaml").stdout
    assert json.loads(command("estimate", "--yaml", "predict_qwenvl_9.6b", "--json").stdout)


def test_boxes(bare, tmp_path):
    text = """
from mindformers_qwenvl.grounding import parse
print(parse("<ref>dog</ref><box>(1,2),(30,40)</box>").boxes[0].to_pixels(1000, 1000))
"""
    assert bare.run("-c", text, cwd=tmp_path).stdout.strip()


def test_doctor_says_what_is_missing(command):
    done = command("doctor", "--json", check=False)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert report["passed"] is False
    assert states["MindFormers"] == states["MindSpore"] == states["pair"] == "failed"
    assert states["Python"] == "ok"
    assert states["trial"] == states["operators"] == "not checked"


def test_doctor_in_a_folder_with_another_mindformers(bare, tmp_path):
    for name, version in (("mindformers", "1.9.0"), ("mindspore", "2.9.0")):
        (tmp_path / "there" / name).mkdir(parents=True)
        (tmp_path / "there" / name / "__init__.py").write_text(
            f'__version__ = "{version}"\nraise ImportError("no .so")\n'
        )
    (tmp_path / "here" / "mindformers").mkdir(parents=True)
    (tmp_path / "here" / "mindformers" / "__init__.py").write_text('__version__ = "1.5.0"\n')
    words = (
        "import sys; from mindformers_qwenvl.cli import main; sys.path.remove(''); sys.exit(main(['doctor', '--json']))"
    )
    done = bare.run("-c", words, cwd=tmp_path / "here", check=False, PYTHONPATH=str(tmp_path / "there"))
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["shadow"]["state"] == "warning"
    assert str(Path("here", "mindformers")) in found["shadow"]["detail"]
    assert found["pair"]["state"] == "ok"
    assert found["import mindformers"]["state"] == "failed"
    assert "no .so" in found["import mindformers"]["detail"]
