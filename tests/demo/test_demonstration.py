"""The demo from end to end, with few steps: every part works; how much it learns needs the whole run."""

import json
import subprocess
import sys

import pytest
from PIL import Image

PROGRAM = """
import sys
from pathlib import Path
from mindformers_qwenvl.demo import demonstration as run
run.HELD_OUT = 12
print(run.run(Path(sys.argv[1]), pictures_to_train=64))
"""


def test_demo_with_few_steps(tmp_path):
    workdir = tmp_path / "demo"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(workdir)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mean IoU of the boxes" in done.stdout and "run_mindformer.py" in done.stdout
    assert len(json.loads((workdir / "test.json").read_text())) == 12
    assert list((workdir / "output").rglob("*.safetensors"))
    for picture in ("loss.png", "answers.png"):
        assert min(Image.open(workdir / picture).size) > 400
        assert str(workdir / picture) in done.stdout
    lines = [json.loads(line) for line in (workdir / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {"image", "question", "answer", "expected", "right"} <= set(lines[0])
    assert {"iou" in line for line in lines[:3]} == {True, False}
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr


@pytest.mark.slow
def test_whole_demo_learns_colours_shapes_and_boxes(tmp_path):
    command = [sys.executable, "-m", "mindformers_qwenvl", "demo", "--workdir", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "PASSED" in done.stdout
