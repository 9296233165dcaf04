"""Two processes of msrun on a CPU, data-parallel: each answers, with its own key/value cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.registration import yaml_dir
from tests.support.ports import free_port
from tests.support.small_runs import DRIVER, PREDICT, QUERIES, assert_golden


@pytest.mark.slow
def test_two_workers_predict(checkpoint_dir, tmp_path):
    """The plugin is found in the workers too; nothing is shared but the start."""
    driver = shutil.copy(DRIVER, tmp_path)
    words = ["convert-weight", "--model", "qwenvl", "--input_path", str(checkpoint_dir("a56")), "--dtype", "fp32"]
    assert main([*words, "--output_path", str(tmp_path / "a56.ckpt")]) == 0
    task = {
        "config": str(yaml_dir() / "predict_qwenvl_tiny.yaml"),
        "set": {**PREDICT, "use_parallel": True, "load_checkpoint": str(tmp_path / "a56.ckpt")},
        "input_data": [QUERIES["two_images"]],
    }
    msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
    where = [f"--master_port={free_port()}", "--log_dir=logs", "--join=True", "--cluster_time_out=120"]
    # msrun starts its workers with the `python` of the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [*msrun, *where, driver, json.dumps(task)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for rank in range(2):
        log = (tmp_path / "logs" / f"worker_{rank}.log").read_text(encoding="utf-8")
        (line,) = [line for line in log.splitlines() if line.startswith("GENERATED ")]
        (row,) = json.loads(line.removeprefix("GENERATED "))
        assert_golden(row, "two_images")
        assert f"rank_id: {rank}, device_num: 2" in log
