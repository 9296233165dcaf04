"""Registration on a MindFormers that lacks something: each case in a fresh process, with the real host taken apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import json, logging, sys
import mindformers
from mindformers.tools.logger import get_logger
from mindformers.tools.register import MindFormerRegister

said = []
class Listen(logging.Handler):
    def emit(self, record):
        if "mindformers-qwenvl" in record.getMessage():
            said.append(record.getMessage())
get_logger().addHandler(Listen())
"""
END = """
from mindformers_qwenvl import host
from mindformers_qwenvl.registration import TASK, register
error = ""
try:
    register()
    register()
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}"
print("FOUND", json.dumps({
    "error": error,
    "said": said,
    "states": {state.work_around.name: [state.state, state.reason] for state in host.states()},
    "model": MindFormerRegister.is_exist("models", "QwenVL"),
    "ours": sorted({name for kind in MindFormerRegister.registry.values() for name, cls in kind.items()
                    if cls.__module__.startswith("mindformers_qwenvl")}),
}))
"""


def registered(folder: Path, damage: str) -> dict:
    """What `register()` does, twice, after `damage` to the host that is imported."""
    (folder / "job.py").write_text(BEGIN + damage + END, encoding="utf-8")
    environment = {**os.environ, "MINDFORMERS_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, "job.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


def lost(found: dict) -> dict[str, str]:
    return {name: reason for name, (state, reason) in found["states"].items() if state != "active"}


def test_nothing_is_lost_here(tmp_path):
    found = registered(tmp_path, "")
    assert (found["error"], found["said"], lost(found)) == ("", [], {})


def test_a_patch_that_finds_nothing_is_reported_and_the_rest_stays(tmp_path):
    found = registered(
        tmp_path,
        "from mindformers.utils import load_checkpoint_utils\ndel load_checkpoint_utils._get_src_file\n"
        "stock = load_checkpoint_utils._get_checkpoint_mode\n",
    )
    assert lost(found) == {
        "resume in data parallel": "there is no mindformers.utils.load_checkpoint_utils:_get_src_file"
    }
    assert found["model"]
    (line,) = set(found["said"])
    assert line.startswith("mindformers-qwenvl: resume in data parallel: not available on MindFormers ")


@pytest.mark.slow
def test_what_is_lost_of_a_patch_is_all_of_it(tmp_path):
    damage = """
from mindformers.trainer import Trainer
from mindformers.utils import load_checkpoint_utils
stock = Trainer._check_config_rules
del load_checkpoint_utils._get_src_file
import atexit
atexit.register(lambda: print("STOCK", Trainer._check_config_rules is stock))
"""
    (tmp_path / "job.py").write_text(BEGIN + damage + END, encoding="utf-8")
    environment = {**os.environ, "MINDFORMERS_PLUGINS": ""}
    done = subprocess.run(
        [sys.executable, "job.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "STOCK True" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_class_that_cannot_be_built_is_reported_and_the_rest_stays(tmp_path):
    found = registered(tmp_path, 'del sys.modules["mindformers.pipeline"].MultiModalToTextPipeline\n')
    assert found["model"]
    assert "multi_modal_to_text_generation" not in found["ours"]
    assert "ImageToTextGenerationTrainer" in found["ours"]
    assert set(lost(found)) == {
        "a pipeline that finds its processor",
        "settings of a pipeline's call",
        "a pipeline that saves what it reads",
    }
    assert any("multi_modal_to_text_generation: not available on MindFormers" in line for line in found["said"])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("import mindformers.modules.layers as layers\ndel layers.Linear\n", "Linear"),
        pytest.param(
            'del sys.modules["mindformers.wrapper.build_wrapper"].WRAPPERS_MINDFORMERS_DEFINED\n',
            "WRAPPERS",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "from mindformers.mindformer_book import MindFormerBook\ndel MindFormerBook.get_config_support_list\n",
            "get_config_support_list",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_an_essential_nothing_is_added(tmp_path, damage, named):
    found = registered(tmp_path, damage)
    assert found["error"].startswith("HostError: Qwen-VL cannot run on MindFormers ")
    assert named in found["error"]
    assert (found["ours"], found["model"]) == ([], False)
    assert {state for state, _ in found["states"].values()} == {"not installed"}
