"""The golden sets (tests/golden) for tests: their numbers, and the tiny checkpoints that belong to them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[1] / "golden"
SETS = ("a56", "b224", "c448")
COMPANIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken")


@dataclass(frozen=True)
class GoldenSet:
    """One folder of tests/golden; README.md there says what each key means."""

    name: str

    @property
    def directory(self) -> Path:
        return GOLDEN / self.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The original (HuggingFace) config.json."""
        return json.loads((self.directory / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def meta(self) -> dict[str, Any]:
        """golden.json: special ids, prompts, training losses, gradient norms, curves."""
        return json.loads((self.directory / "golden.json").read_text(encoding="utf-8"))

    @cached_property
    def arrays(self) -> np.lib.npyio.NpzFile:
        """golden.npz: arrays by key, read from the file when asked for."""
        return np.load(self.directory / "golden.npz", allow_pickle=False)

    @property
    def vocab_file(self) -> Path:
        return self.directory / "qwen.tiktoken"

    def image(self, index: int | str) -> Path:
        return self.directory / "images" / f"{index}.png"

    def greedy_text(self, prompt: str, tokens: int) -> str:
        """The first `tokens` of the greedy answer to a prompt, as text."""
        from mindformers_qwenvl.text.vocabulary import Vocabulary

        ids = self.arrays[f"greedy.{prompt}"][:tokens].tolist()
        return Vocabulary.from_file(self.vocab_file).decode(ids).strip()


@cache
def golden_set(name: str) -> GoldenSet:
    """The set `name` (a56, b224, c448; qwen-vl-9.6b has a config but no arrays)."""
    if not (GOLDEN / name / "config.json").is_file():
        raise ValueError(f"no golden set {name!r}; there are {', '.join(SETS)} and qwen-vl-9.6b")
    return GoldenSet(name)


@cache
def maker() -> ModuleType:
    """tests/golden/make_checkpoint.py as a module: `parameter_shapes(config)` and `draw(name, shape, seed)`."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", GOLDEN / "make_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_checkpoint(name: str, seed: int = 0, config: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Original name -> float32 array of every tensor of set `name`, or of another `config`."""
    shapes = maker().parameter_shapes(config or golden_set(name).config)
    return {key: maker().draw(key, shape, seed) for key, shape in shapes.items()}


def write_checkpoint(
    name: str, out_dir: str | os.PathLike, *, seed: int = 0, shards: int = 3, config: dict[str, Any] | None = None
) -> Path:
    """Write set `name` as an original HuggingFace directory: config, vocabulary, safetensors shards, index. config:
    instead of the set's own."""
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for companion in COMPANIONS:
        if (golden_set(name).directory / companion).exists():
            shutil.copy(golden_set(name).directory / companion, out_dir)
    if config is not None:
        (out_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = draw_checkpoint(name, seed, config)
    weight_map = {}
    for number, part in enumerate(np.array_split(np.array(list(tensors), dtype=object), shards), 1):
        file_name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file({key: tensors[key] for key in part}, out_dir / file_name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file_name))
    total = sum(4 * math.prod(tensor.shape) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (out_dir / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return out_dir
