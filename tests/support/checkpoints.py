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
