"""`demo --lora` from end to end: with few steps every part works, the whole run learns the new colour."""

import json
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

PROGRAM = """
import sys
from pathlib import Path
from mindformers_qwenvl.demo import adapter, demonstration
adapter.HELD_OUT = demonstration.HELD_OUT = 6
run = demonstration.run
demonstration.run = lambda workdir: run(workdir, 64)
print(adapter.run(Path(sys.argv[1]), pictures_to_train=64).same_answers)
"""


@pytest.mark.slow
def test_with_few_steps(tmp_path):
    workdir = tmp_path / "demo"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(workdir)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "True"  # beside the weights and merged into them it answers the same
    for words in ("new colour, base", "new colour, adapter", "old colours, adapter", "convert-weight"):
        assert words in done.stdout
    [adapter] = (workdir / "lora/output/adapter").glob("step_*")
    assert load_file(adapter / "adapter_model.safetensors")
    assert json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 8


@pytest.mark.slow
def test_the_adapter_learns_the_colour(tmp_path):
    command = [sys.executable, "-m", "mindformers_qwenvl", "demo", "--lora", "--workdir", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "PASSED" in done.stdout
