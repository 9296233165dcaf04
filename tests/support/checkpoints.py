"""Checkpoints for tests, and what is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mindformers_qwenvl.weights.formats.reader import Checkpoint

ROOT = Path(__file__).parents[2]


def original_bytes(folder: Path) -> dict[str, tuple]:
    """Name -> (dtype, shape, bytes) of every tensor of a checkpoint."""
    with Checkpoint(folder) as checkpoint:
        return {
            name: (info.dtype, info.shape, checkpoint.read(name).tobytes()) for name, info in checkpoint.tensors.items()
        }


def copy_of(folder: Path) -> Path:
    """The folder copied to `hf` in the current one."""
    return Path(shutil.copytree(folder, Path.cwd() / "hf"))


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint, by its name in the files."""
    with Checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name).reshape(info.shape) for name, info in checkpoint.tensors.items()}


def names_of_a_resumed_run(folder: str, network) -> list[str]:
    """EPOCH_STEP as MindFormers names steps 10 and 12 of a training that was resumed after step 8, three an epoch."""
    from pathlib import Path
    from types import SimpleNamespace

    from mindformers.core.callback.callback import CheckpointMonitor

    before = {"epoch_num": 2, "step_num": 8, "global_step": 8, "loss_scale": 1}
    monitor = CheckpointMonitor("tiny", folder, append_info=[before], checkpoint_format="safetensors")
    Path(folder, "checkpoint/rank_0").mkdir(parents=True)
    names = []
    for step in (10, 12):
        params = SimpleNamespace(cur_step_num=step - 8, cur_epoch_num=4, batch_num=3, net_outputs=0.0)
        params.optimizer, params.train_network = SimpleNamespace(global_step=step), network
        monitor.save_checkpoint(params)
        assert type(params.batch_num) is int
        names.append(monitor.latest_ckpt_file_name.removesuffix(".safetensors").rpartition("-")[2])
    return names
