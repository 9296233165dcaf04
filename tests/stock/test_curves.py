"""The original's learning curves through the stock Trainer: YAML, checkpoint, optimizer, train step and callbacks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_qwenvl.registration import yaml_dir
from mindformers_qwenvl.training.steps_file import read_steps
from tests.support.golden import golden_set
from tests.support.network_inputs import write_batches
from tests.support.small_runs import LLM, SIZES

WORKER = Path(__file__).parents[1] / "support" / "curves.py"
RELATIVE = 1e-4


def train(folder: Path, golden, curve: dict, checkpoint: Path, **more) -> list[dict]:
    """The rows that QwenVLMonitor writes of ten steps with the golden curve's settings."""
    write_batches(golden, folder / "batches.npz")
    settings = {
        **SIZES,
        f"{LLM}.seq_length": 160,
        "model.model_config.freeze_vision": curve["fix_vit"],
        "load_checkpoint": str(checkpoint),
        "load_ckpt_format": "safetensors",
        "runner_config.epochs": 1,
        "runner_config.batch_size": 2,
        "lr_schedule": None,
        "optimizer.type": "QwenVLAdamW",
        "optimizer.learning_rate": curve["lr"],
        "optimizer.betas": curve["betas"],
        "optimizer.eps": curve["eps"],
        "optimizer.weight_decay": curve["wd"],
        "runner_wrapper.max_grad_norm": float(curve["clip"] or 1e9),
        "callbacks": [{"type": "QwenVLMonitor"}],
        **more,
    }
    config = (yaml_dir() / "finetune_qwenvl_tiny.yaml").read_text(encoding="utf-8")
    (folder / "curve.yaml").write_text(config, encoding="utf-8")
    task = {"config": "curve.yaml", "set": settings, "batches": "batches.npz", "steps": 10}
    task["with_table"] = curve["fix_vit"]
    shutil.copy(WORKER.with_name("driver.py"), folder)
    worker = shutil.copy(WORKER, folder)  # MindSpore writes beside it
    done = subprocess.run(
        [sys.executable, worker, json.dumps(task)], cwd=folder, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return read_steps(folder / "output/steps/rank_0.csv")


@pytest.mark.parametrize(
    ("curve", "wrapper"),
    [
        # Two rows a batch, with unlike numbers of labels.
        pytest.param("curve_full", {"accumulation_steps": 2, "scale_sense": 4096.0}, id="all, accumulated, loss scale"),
        pytest.param("curve_fix_vit", {}, id="vision frozen, weight decay, clipped", marks=pytest.mark.slow),
        pytest.param("curve_full", {}, id="all", marks=pytest.mark.slow),
    ],
)
def test_ten_steps(checkpoint_dir, tmp_path, curve, wrapper):
    golden = golden_set("a56")
    expected = golden.meta["train"][curve]
    labels = [golden.arrays[f"train.batch{number}.labels"] for number in range(3)]
    assert any(len({int((row >= 0).sum()) for row in rows}) > 1 for rows in labels)
    wrapper = {f"runner_wrapper.{key}": value for key, value in wrapper.items()}
    rows = train(tmp_path, golden, expected, checkpoint_dir("a56"), **wrapper)
    assert [row["step"] for row in rows] == list(range(1, 11))
    np.testing.assert_allclose([row["loss"] for row in rows], expected["losses"], rtol=RELATIVE)
    np.testing.assert_allclose([row["grad_norm"] for row in rows], expected["grad_norms"], rtol=RELATIVE)
    assert {row["loss_scale"] for row in rows} == {wrapper.get("runner_wrapper.scale_sense", 1.0)}
