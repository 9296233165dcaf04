"""The plan of a conversion: each tensor of the result, and the ranges of source numbers it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.weights.convert.dtypes import STORAGE
from mindformers_qwenvl.weights.convert.writer import Entry
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.names import is_dropped, is_training_state, to_original, to_ours
from mindformers_qwenvl.weights.shapes import check_shapes, listed, original_shapes, our_shapes

__all__ = ["Target", "make_plan"]


@dataclass(frozen=True)
class Target:
    """A tensor of the result: what it is, and the ranges [start, stop) of flattened source tensors it is made of."""

    entry: Entry
    pieces: tuple[tuple[str, int, int], ...]


def make_plan(
    checkpoint: Readable, config: dict[str, Any], *, source: str, result: str, dtype: str | None
) -> tuple[list[Target], list[str]]:
    """Check the tensors of `checkpoint` against `config` and lay out the result, in the order of the source.

    Args:
        source, result: the layouts, "original" or "ours".

    Returns:
        The tensors of the result, and the names of source tensors that are dropped on purpose.

    Raises:
        ValueError: tensors are missing, unknown, wrong-shaped, or not FP16, BF16 or FP32; the message lists them.
    """
    drop = is_training_state if source == "ours" else is_dropped
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
                f"{listed(sources)} become one tensor but have different dtypes, {listed(sorted(kinds))}: give --dtype"
            )
        pieces = tuple((source, 0, found[source].size) for source in sources)
        targets.append(Target(Entry(part.name, dtype or info.dtype, theirs[part.name]), pieces))
    return targets, dropped
