"""`mindformers-qwenvl check-data`, as typed, with the tiny YAML of the package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from mindformers_qwenvl.cli import main
from tests.support.golden import golden_set
from tests.support.pictures import draw

TINY = Path(__file__).parents[2] / "yaml" / "finetune_qwenvl_tiny.yaml"
WORDS = ["check-data", "train.json", "--yaml", "tiny.yaml", "--dataset_dir", "pictures"]
WORDS += ["--vocab_file", str(golden_set("a56").vocab_file)]


@pytest.fixture(autouse=True)
def data():
    """train.json of two samples with pictures, and one without."""
    for name in "ab":
        draw(Path("pictures") / f"{name}.png")
    write(*(talk(f"Picture 1: <img>{name}.png</img>\nq") for name in "ab"), talk("q"))
    Path("tiny.yaml").write_text(TINY.read_text().replace("batch_size: 32 ", "batch_size: 1 "))


def talk(question, answer="r"):
    return {
        "id": "x7",
        "conversations": [{"from": "user", "value": question}, {"from": "assistant", "value": answer}],
    }


def write(*records):
    Path("train.json").write_text(json.dumps(records))


def test_clean_data_exits_with_0(capsys):
    assert main(WORDS) == 0
    out, err = capsys.readouterr()
    assert "samples   3, 3 could be laid out" in out and "training would read all samples" in out
    assert "3/3" in err and "lengths drawn: train.lengths.png" in err
    assert Image.open("train.lengths.png").format == "PNG"


def test_a_copy_with_the_boxes_corrected(capsys):
    write(talk("q", "<box>(9,9),(1,1)</box>"), talk("q", "<box>(2000,1),(3000,2)</box>"))
    assert main([*WORDS, "--fix-boxes", "fixed.json"]) == 0
    out = capsys.readouterr().out
    assert "note      box off the grid: 1\n            sample 1, id 'x7': turn 1: <box>(2000,1)" in out
    assert "fixed.json: 1 boxes of 1 samples corrected; 1 left as they are" in out
    first, second = json.loads(Path("fixed.json").read_text(encoding="utf-8"))
    assert first["conversations"][1]["value"] == "<box>(1,1),(9,9)</box>"
    assert second == json.loads(Path("train.json").read_text())[1]


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mindformers_qwenvl.cli.check_data.check_file", interrupted)
    assert main([*WORDS, "--quiet"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_too_few_samples_for_a_batch_exit_with_1(capsys):
    Path("tiny.yaml").write_text(TINY.read_text())
    assert main(WORDS) == 1
    out = capsys.readouterr().out
    assert "FAILS     3 samples do not fill a batch of runner_config.batch_size 32" in out
    assert "would read all" not in out


def test_a_vocabulary_larger_than_the_models_is_an_error(capsys):
    Path("tiny.yaml").write_text(TINY.read_text().replace("vocab_size: 1024", "vocab_size: 1000"))
    assert main(WORDS) == 1
    assert "ids, the model only 1000: set vocab_size" in capsys.readouterr().err


def test_faults_exit_with_1_and_name_the_sample(capsys):
    write(talk("q"), talk("<img>no.png</img>"), talk("q", "<img>a.png"), talk("q", "r " * 100))
    words = [*WORDS, "--report", "found.jsonl", "--histogram", "h.png", "--workers", "1", "--quiet"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "sample 1, id 'x7': image pictures/no.png: no such file" in out.replace(str(Path.cwd()) + "/", "")
    assert "unclosed tag: 1" in out and "note      over max_length: 1" in out
    assert "training would stop at 2 of these findings" in out and "%" not in err
    found = [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]
    assert [(line["sample"], line["kind"], line["fails"]) for line in found] == [
        (1, "missing picture", True),
        (2, "unclosed tag", True),
        (3, "over max_length", False),
    ]
    assert Path("h.png").is_file() and not Path("train.lengths.png").exists()


def test_without_matplotlib_the_text_is_there(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(WORDS) == 0
    out, err = capsys.readouterr()
    assert "#" in out and "not drawn, matplotlib is not installed" in err
    assert not list(Path().glob("*.png*"))


def test_nothing_to_draw(capsys):
    write({"id": 1})
    assert main(WORDS) == 1
    assert "no sample could be laid out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--yaml", "no.yaml"], "no.yaml"),
        (["--dataset_dir", "nowhere"], "nowhere: no such folder"),
        (["--vocab_file", "no.tiktoken"], "no.tiktoken' does not exist"),
        (["--yaml", "train.json"], "sections such as `model:` are expected"),
        (["--report", "train.json"], "train.json would overwrite train.json, which is needed"),
        (["--report", "pictures/../tiny.yaml"], "would overwrite tiny.yaml, which is needed"),
        (["--report", "pictures"], "pictures is a folder"),
        (["--histogram", "nowhere/h.png"], "nowhere/h.png cannot be written: there is no folder"),
        (["--histogram", "h.png", "--report", "h.png"], "would overwrite h.png, which is needed"),
    ],
)
def test_failures_exit_with_1_and_one_message(words, message, capsys):
    assert main([*WORDS, *words]) == 1
    err = capsys.readouterr().err
    assert "mindformers-qwenvl check-data: " in err and message in err


def test_a_file_that_is_no_dataset(capsys):
    for content, message in (("", "empty"), ('[{"id"', "not valid JSON"), ("[]", "no samples")):
        Path("train.json").write_text(content)
        assert main(WORDS) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["check-data"], ["check-data", "train.json"], [*WORDS, "--workers", "0"], [*WORDS, "--histogram", "h.gif"]],
)
def test_bad_usage_exits_with_2(words, usage_error):
    assert usage_error(*words)


def test_help_shows_examples(help_text):
    out = help_text("check-data")
    assert "check-data train.json --yaml finetune_qwenvl_9.6b.yaml" in out and "exit code" in out
