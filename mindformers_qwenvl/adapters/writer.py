"""Writing an adapter as peft does: adapter_model.safetensors and adapter_config.json, both or neither. numpy alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindformers_qwenvl.adapters.reader import FILES, Adapter
from mindformers_qwenvl.adapters.settings import CONFIG_FILE, AdapterSettings
from mindformers_qwenvl.adapters.tensors import SAVED, A, B, peft_name
from mindformers_qwenvl.weights.convert.dtypes import cast
from mindformers_qwenvl.weights.convert.writer import Entry, safetensors_layout

__all__ = ["factor_tensors", "peft_settings", "write_adapter"]

Tensors = Mapping[str, tuple[np.ndarray, str]]
"""Name in peft's file -> (float32 array, dtype code to write it in)."""


def write_adapter(folder: str | os.PathLike, settings: AdapterSettings, tensors: Tensors) -> Path:
    """Write the adapter `tensors` to `folder`, which appears when it is complete; an existing one is replaced."""
    folder = Path(folder)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        ordered = dict(sorted(tensors.items()))
        entries = [Entry(name, code, array.shape) for name, (array, code) in ordered.items()]
        with (unfinished / FILES[0]).open("wb") as file:
            for _, header in safetensors_layout(entries, "pt").headers:
                file.write(header)
            for array, code in ordered.values():
                file.write(cast(np.ascontiguousarray(array, np.float32).reshape(-1), "F32", code)[0].tobytes())
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps(settings.as_dict(), indent=2)
        (unfinished / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def factor_tensors(adapter: Adapter) -> dict[str, tuple[np.ndarray, str]]:
    """The tensors of an opened adapter, of whatever form, as peft's file has them.

    Separate factors of q, k and v become one block-diagonal pair, which is exact.
    """
    found = {}
    for module, target in adapter.targets.items():
        code = adapter.info(target.a[0]).dtype
        for kind, array in zip((A, B), adapter.factors(module), strict=True):
            found[peft_name(module, kind)] = array, code
    for tensor, stored in adapter.saved.items():
        info = adapter.info(stored)
        found[peft_name(tensor, SAVED)] = adapter.read_saved(tensor).reshape(info.shape), info.dtype
    return found


def peft_settings(adapter: Adapter) -> AdapterSettings:
    """The adapter's settings, with patterns for modules whose rank is that of several parts: their scale stays."""
    settings = adapter.settings
    ranks, alphas = dict(settings.rank_pattern), dict(settings.alpha_pattern)
    for module, target in adapter.targets.items():
        if target.rank != settings.rank_of(module):
            ranks = {module: target.rank, **ranks}
            alphas = {module: target.scale * (target.rank**0.5 if settings.rslora else target.rank), **alphas}
    values = {**vars(settings), "rank_pattern": ranks, "alpha_pattern": alphas, "notes": ()}
    values["targets"] = tuple(adapter.targets)  # full names, which peft accepts as well as their ends
    return AdapterSettings(**values)
