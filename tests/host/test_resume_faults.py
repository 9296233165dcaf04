"""The faults in resuming that host/ works around, in a MindFormers without plugins; see the index in host/__init__.py.

If such a test fails, the host has been mended and the work-around can go.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import names_of_a_resumed_run
from tests.support.ports import free_port

COMMON = """
import json, os
import mindspore as ms
from mindspore import nn
from mindformers import MindFormerConfig
from mindformers.trainer.utils import load_resume_context_from_checkpoint
from mindformers.utils import load_checkpoint_utils

found = {}
def fault(name, function):
    try:
        found[name] = function()
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"

def settings(path, **more):
    return MindFormerConfig(**{
        "load_ckpt_format": "safetensors", "use_parallel": False, "auto_trans_ckpt": False, "resume_training": True,
        "checkpoint": MindFormerConfig(load_path=path), "callbacks": [], "runner_wrapper": MindFormerConfig(),
        "model": MindFormerConfig(model_config=MindFormerConfig()),
        "runner_config": MindFormerConfig(global_batch_size=4), **more
    })

ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
network = nn.Dense(2, 2)
"""
ONE = f"""
{inspect.getsource(names_of_a_resumed_run)}

def load(path):
    load_checkpoint_utils.load_checkpoint_with_safetensors(settings(path), ms.Model(network), network, None)

os.makedirs("saved/rank_0")
file = "saved/rank_0/tiny_rank_0-1_2.safetensors"
ms.save_checkpoint(network, file, format="safetensors")
fault("folder", lambda: load("saved"))
fault("file", lambda: load(file))
ms.save_checkpoint(network, "whole.ckpt")
fault("ckpt", lambda: load("whole.ckpt"))
fault("names", lambda: names_of_a_resumed_run("resumed", network))
"""
# As the Trainer calls them, in two processes that share the files of one.
TWO = """
from mindspore.communication import comm_func, get_rank, init
from mindformers.checkpoint import sharded_tensor

init()
ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True)
fault("barrier", comm_func.barrier)
part = [{"weight": network.weight}, {"bias": network.bias}][get_rank()]
fault("parts", lambda: ms.load_param_into_net(network, part, remove_redundancy=True))
fault("all sharded", lambda: sharded_tensor.get_all_sharded_tensor(network))
fault("sharded", lambda: sharded_tensor.get_cur_sharded_tensor(network))
config = settings("saved", use_parallel=True, resume_training="tiny_rank_0-1_2.safetensors")
fault("one more process", lambda: load_resume_context_from_checkpoint(config, None))
"""
PRINT = 'print("FOUND", json.dumps(found))\n'


def printed(text: str) -> dict:
    (line,) = [line for line in text.splitlines() if line.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stock")


@pytest.fixture(scope="module")
def stock(folder) -> dict:
    """What the unmended host does in one process: name -> result, or `ErrorType: message`."""
    (folder / "one.py").write_text(COMMON + ONE + PRINT)  # a file: MindSpore compiles nothing that comes from -c
    environment = {**os.environ, "MINDFORMERS_PLUGINS": ""}
    command = [sys.executable, "one.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return printed(done.stdout)


@pytest.fixture(scope="module")
def stock_of_two(stock, folder) -> list[dict]:
    """The same for each of two processes, which go on from what one has saved."""
    (folder / "two.py").write_text(COMMON + TWO + PRINT)
    msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
    where = [f"--master_port={free_port()}", "--log_dir=logs", "--join=True", "--cluster_time_out=300"]
    # msrun starts its workers with the `python` of the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "MINDFORMERS_PLUGINS": ""}
    done = subprocess.run(
        [*msrun, *where, "two.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    logs = [(folder / f"logs/worker_{rank}.log").read_text(encoding="utf-8", errors="replace") for rank in range(2)]
    assert done.returncode == 0, done.stdout + done.stderr + "".join(logs)
    return [printed(log) for log in logs]


@pytest.mark.parametrize("given", ["folder", "file"])
def test_stock_takes_the_file_of_one_process_for_that_of_several(stock, given):
    assert stock[given].startswith("ValueError: when input checkpoint file is rank dir, Please set use_parallel")


def test_stock_reads_a_file_as_the_yaml_says(stock):
    """A .ckpt file with `load_ckpt_format: safetensors`."""
    assert "Error" in stock["ckpt"], stock["ckpt"]


def test_stock_names_a_checkpoint_by_the_steps_of_the_run(stock):
    """Steps 10 and 12, of three an epoch, after a resume at step 8."""
    assert stock["names"] == ["4_2", "4_1"]


@pytest.mark.slow
def test_stock_processes_cannot_wait_for_each_other_on_a_cpu(stock_of_two):
    for found in stock_of_two:
        assert "Unsupported op [Barrier] on CPU" in found["barrier"]


@pytest.mark.slow
def test_stock_parts_want_a_compiled_network(stock_of_two):
    for found in stock_of_two:
        assert found["parts"].startswith("ValueError: When loading a parameter dict that has removed redundancy")


@pytest.mark.slow
def test_stock_processes_want_a_file_each(stock_of_two):
    assert "FileNotFoundError" not in stock_of_two[0]["one more process"]
    assert stock_of_two[1]["one more process"].startswith("FileNotFoundError: saved/rank_1/tiny_rank_1-1_2.safetensors")


@pytest.mark.slow
def test_stock_newer_section_wants_sharding(stock_of_two):
    for found in stock_of_two:
        assert found["all sharded"].startswith("RuntimeError: `get_strategy_metadata` returns `None`")
        assert found["sharded"].startswith("TypeError")
