"""What a conversion is made of: each tensor of the result, and the ranges of the source's numbers it consists of."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_qwenvl.weights.convert.dtypes import STORAGE
from mindformers_qwenvl.weights.convert.writer import Entry
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.names import is_training_state, to_original, to_ours
from mindformers_qwenvl.weights.shapes import check_shapes, listed, original_shapes, our_shapes

__all__ = ["Target", "make_plan", "read_config"]


@dataclass(frozen=True)
class Target:
    """A tensor of the result: what it is, and the ranges [start, stop) of flattened source tensors it is made of."""

    entry: Entry
    pieces: tuple[tuple[str, int, int], ...]


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The original config.json at `path`: the file itself, a folder that holds it, or a weight file beside it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not the config of an original Qwen-VL.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected the original folder, or its config.json")
    if path.suffix != ".json":
        path = (path if path.is_dir() else path.parent) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: the original config.json says which shapes the weights must have"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or "visual" not in config:
        raise ValueError(f"{path} is not the config of an original Qwen-VL: it has no 'visual'")
    return config


def make_plan(
    checkpoint: Readable, config: dict[str, Any], *, source: str, result: str, dtype: str | None
) -> tuple[list[Target], list[str]]:
    """Check the tensors of `checkpoint` against `config` and lay out the result, in the order of the source.

    Args:
        source, result: the layouts, "original" or "ours".

    Returns:
        The tensors of the result, and the names of source tensors that have no place in it on purpose.

    Raises:
        ValueError: missing, unknown or wrong-shaped tensors, or ones that are no FP16, BF16 or FP32; all are listed.
    """
    drop = is_training_state if source == "ours" else _is_buffer
    dropped = [name for name in checkpoint if drop(name)]
    found = {name: info for name, info in checkpoint.tensors.items() if not drop(name)}
    theirs, ours = original_shapes(config), our_shapes(config)
    check_shapes(
        {name: info.shape for name, info in found.items()}, ours if source == "ours" else theirs, str(checkpoint.path)
    )
    if odd := [f"{name} is {info.dtype}" for name, info in found.items() if info.dtype not in STORAGE]:
        raise ValueError(f"{checkpoint.path}: expected F16, BF16 or F32, but {listed(odd)}")

    targets = []
    for name, info in found.items():
        if source == result:
            targets.append(Target(Entry(name, dtype or info.dtype, info.shape), ((name, 0, info.size),)))
            continue
        if source == "original":
            parts = to_ours(name)
            size = info.size // len(parts)
            for index, part in enumerate(parts):
                entry = Entry(part, dtype or info.dtype, ours[part])
                targets.append(Target(entry, ((name, index * size, (index + 1) * size),)))
            continue
        part = to_original(name)
        if part.index:  # the first part stands for them all
            continue
        sources = to_ours(part.name)
        kinds = {found[source].dtype for source in sources}
        if dtype is None and len(kinds) > 1:
            raise ValueError(
                f"{listed(sources)} become one tensor but have dtypes {listed(sorted(kinds))}: give --dtype"
            )
        pieces = tuple((source, 0, found[source].size) for source in sources)
        targets.append(Target(Entry(part.name, dtype or info.dtype, theirs[part.name]), pieces))
    return targets, dropped


def _is_buffer(name: str) -> bool:
    try:
        return not to_ours(name)
    except ValueError:
        return False  # unknown: the comparison with the config lists it
