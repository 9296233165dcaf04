"""What `generate()` logs about the mode it runs in, in a separate process: a process has only one mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import mindspore as ms
if sys.argv[2] == "graph":
    ms.set_context(mode=ms.GRAPH_MODE)
from mindformers_qwenvl import QwenVL
network = QwenVL.from_pretrained(sys.argv[1], use_past=True).set_train(False)
for _ in range(2):
    network.generate([[1, 2, 3]], max_new_tokens=1, do_sample=False)
print("done")
"""


@pytest.mark.parametrize(("mode", "times"), [("default", 1), pytest.param("graph", 0, marks=pytest.mark.slow)])
def test_pynative_mode_is_reported_once(checkpoint_dir, mode, times):
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(checkpoint_dir("a56")), mode],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        timeout=600,
    )
    assert "done" in done.stdout, done.stderr
    said = done.stdout + done.stderr
    assert said.count("MindSpore is in PYNATIVE_MODE") == times
    assert times == 0 or "set_context(mode=mindspore.GRAPH_MODE)" in said
