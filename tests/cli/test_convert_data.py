"""`mindformers-qwenvl convert-data`, as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def llava():
    """detail_23k.json of two records, the picture of one of them missing."""
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    records = [{"id": str(n), "image": f"00000044278{n}.jpg", "conversations": turns} for n in (6, 7)]
    Path("detail_23k.json").write_text(json.dumps(records))
    picture = Path("coco/train2014/COCO_train2014_000000442786.jpg")
    picture.parent.mkdir(parents=True)
    picture.touch()


WORDS = ["convert-data", "--data_path", "detail_23k.json", "--image_location", "coco"]


def test_the_flags_of_the_old_script(capsys):
    words = [*WORDS, "--output_path", "new/out.json", "--user_role_name", "U", "--assistant_role_name", "A"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    (sample,) = json.loads(Path("new/out.json").read_text())
    path = "train2014/COCO_train2014_000000442786.jpg"
    assert sample == {
        "id": "6",
        "conversations": [
            {"from": "U", "value": f"Picture 1: <img>{path}</img>\nWhat is it?"},
            {"from": "A", "value": "A dog."},
        ],
    }
    assert "read     2 records\nwrote    1 samples, with 1 pictures; 0 without a picture\ndropped  1 records" in out
    assert "id '7': no train2014/COCO_train2014_000000442787.jpg" in out
    assert "out.json.dropped.jsonl lists what was left out" in err and "100%" in err
    assert json.loads(Path("new/out.json.dropped.jsonl").read_text())["id"] == "7"


def test_the_pictures_are_beside_the_file_if_nothing_else_is_said(capsys):
    Path("detail_23k.json").rename("coco/detail_23k.json")
    words = ["convert-data", "--data_path", "coco/detail_23k.json", "--output_path", "out.jsonl", "--quiet"]
    assert main(words) == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 1
    assert "%" not in capsys.readouterr().err


def test_boxes(capsys):
    document = {
        "images": [{"id": 1, "file_name": "COCO_train2014_000000442786.jpg", "width": 10, "height": 10}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5], "category_id": 3}],
        "categories": [{"id": 3, "name": "dog"}],
    }
    Path("detail_23k.json").write_text(json.dumps(document))
    words = [*WORDS, "--output_path", "out.json", "--box_format", "xyxy", "--box_prompt", "Box {label}!"]
    assert main([*words, "--format", "coco"]) == 0
    question, answer = json.loads(Path("out.json").read_text())[0]["conversations"]
    assert question["value"].endswith("</img>\nBox dog!")
    assert answer["value"] == "<ref>dog</ref><box>(100,100),(500,500)</box>"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data_path", "no.json"], "no.json: no such file"),
        (["--image_location", "nowhere"], "nowhere: no such folder"),
        (["--output_path", "detail_23k.json"], "would overwrite"),
        (["--image_location", "coco/train2014/.."], None),
        (["--image_location", "."], "missing picture: 2"),
    ],
)
def test_failures_exit_with_1_and_one_message(words, message, capsys):
    code = main([*WORDS, "--output_path", "out.json", *words])
    err = capsys.readouterr().err
    assert code == (0 if message is None else 1)
    if message:
        assert "mindformers-qwenvl convert-data: " in err and message in err
        assert not Path("out.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["convert-data"],
        ["convert-data", "--data_path", "detail_23k.json"],
        [*WORDS, "--output_path", "o", "--format", "xml"],
        [*WORDS, "--output_path", "o", "--user_role_name", "assistant"],
        [*WORDS, "--output_path", "o", "--box_prompt", "Where?"],
    ],
)
def test_bad_usage_exits_with_2(words, usage_error):
    assert usage_error(*words)


def test_help_shows_examples(help_text):
    out = help_text("convert-data")
    assert "--data_path llava_v1_5_mix665k.json" in out and "--box_format" in out and "exit code" in out


def test_it_needs_neither_mindspore_nor_mindformers():
    code = (
        "import sys; from mindformers_qwenvl.cli import main; "
        f"code = main({[*WORDS, '--output_path', 'out.json', '--quiet']!r}); "
        "sys.exit(code or sorted({'mindspore', 'mindformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


STUCK = """
import sys, time
from mindformers_qwenvl.cli import main
from mindformers_qwenvl.datasets.convert.conversations import ConversationReader
read = ConversationReader.read
def stuck(self, record):
    if record["id"] == 50:
        time.sleep(600)
    return read(self, record)
ConversationReader.read = stuck
sys.exit(main())
"""


def test_sigterm_leaves_nothing_unfinished():
    """As job schedulers send it."""
    turns = [{"from": "human", "value": "q" * 300}, {"from": "gpt", "value": "r"}]
    Path("many.json").write_text(json.dumps([{"id": number, "conversations": turns} for number in range(100)]))
    words = ["convert-data", "--data_path", "many.json", "--image_location", "coco", "--output_path", "new/out.json"]
    process = subprocess.Popen([sys.executable, "-c", STUCK, *words, "--quiet"])
    wait_until(lambda: process.poll() is not None or list(Path().glob("new/*.tmp")))
    process.terminate()
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert list(Path("new").iterdir()) == []


def test_a_record_cannot_fake_a_line_of_the_summary(capsys):
    turns = [{"from": "human\nwrote    9 samples", "value": "q"}]
    records = [{"id": "a", "conversations": turns}, *json.loads(Path("detail_23k.json").read_text())]
    Path("detail_23k.json").write_text(json.dumps(records))
    assert main([*WORDS, "--output_path", "out.json"]) == 0
    assert "\nwrote    9 samples" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("after", "env"),
    [("| head -c 5 >/dev/null; echo ${PIPESTATUS[0]}", {}), (">x; echo $?", {"PYTHONIOENCODING": "ascii"})],
)
def test_a_reader_that_leaves_and_an_output_that_is_not_utf8(after, env):
    turns = [{"from": "人", "value": "q"}]
    records = [{"id": "图", "conversations": turns}, *json.loads(Path("detail_23k.json").read_text())]
    Path("detail_23k.json").write_text(json.dumps(records))
    line = " ".join([sys.executable, "-m", "mindformers_qwenvl", *WORDS, "--output_path", "out.json", "--quiet", after])
    ran = subprocess.run(["bash", "-c", line], env={**os.environ, **env}, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() in ("0", "1") and "Traceback" not in ran.stderr and "Broken" not in ran.stderr
    assert len(json.loads(Path("out.json").read_text())) == 1
    if env:
        assert ran.stdout.strip() == "0" and "\\u56fe" in Path("x").read_text()
