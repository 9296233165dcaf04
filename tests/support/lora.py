"""The golden adapters (tests/golden/lora) for tests, and others made from them."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support.golden import GOLDEN, golden_set

PREFIX = "base_model.model."
PROMPTS = ("text", "one_image", "two_images")


@cache
def lora(name: str) -> dict[str, Any]:
    """lora.json of a set."""
    return json.loads((GOLDEN / "lora" / name / "lora.json").read_text(encoding="utf-8"))


@cache
def lora_arrays(name: str) -> Any:
    """lora.npz of a set."""
    return np.load(GOLDEN / "lora" / name / "lora.npz", allow_pickle=False)


def adapter_dir(name: str, which: str = "adapter") -> Path:
    return GOLDEN / "lora" / name / which


def factors(name: str, which: str = "adapter") -> dict[str, np.ndarray]:
    """The tensors of a golden adapter."""
    return load_file(adapter_dir(name, which) / "adapter_model.safetensors")


def write(folder: Path, tensors: dict[str, np.ndarray], source: str = "a56", **changes: Any) -> Path:
    """An adapter directory with these tensors, and the settings of the golden one with `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "adapter_model.safetensors"
    )
    settings = json.loads((adapter_dir(source) / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    return folder


def copy(folder: Path, name: str = "a56", which: str = "adapter", **changes: Any) -> Path:
    """A golden adapter in a folder of its own, with changes to its settings."""
    shutil.copytree(adapter_dir(name, which), folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    return folder


def start(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A of the golden curves, by the tensor's name in peft's `named_parameters()` (see tests/golden/README.md)."""
    import hashlib

    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.float32(0.05) * np.random.default_rng([seed, key]).standard_normal(shape, np.float32)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of the original's tensors of a set."""
    from mindformers_qwenvl.weights.shapes import original_shapes

    return original_shapes(golden_set(name).config)
