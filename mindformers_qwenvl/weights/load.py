"""Loading an original checkpoint as it is, without converting files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mindformers_qwenvl.config.original import read_original
from mindformers_qwenvl.weights.convert.dtypes import cast, widen
from mindformers_qwenvl.weights.convert.plan import make_plan
from mindformers_qwenvl.weights.names import layout
from mindformers_qwenvl.weights.opening import opened

__all__ = ["load_original"]


def load_original(directory: str | os.PathLike, dtype: str = "fp32") -> Iterator[tuple[str, np.ndarray]]:
    """The parameters of this network from an original HuggingFace directory, one at a time, without converting files.

    A directory with our own names, as `convert` writes it, can be read too.

    Args:
        directory: config.json and the shards.
        dtype: dtype of the arrays, `fp32` or `fp16`. BF16 weights widen to fp32 exactly, so
            `Tensor(array, mindspore.bfloat16)` restores them.

    Returns:
        An iterator of (our parameter name, array of its shape). Errors are raised before it is returned.

    Raises:
        ValueError, FileNotFoundError: as `convert`.
    """
    if dtype not in ("fp32", "fp16"):
        raise ValueError(f"dtype {dtype!r}: expected fp32 or fp16 (numpy has no bfloat16: use fp32 and cast)")
    settings = read_original(directory)
    checkpoint = opened(Path(directory), settings)
    found = layout(checkpoint.tensors, str(directory))
    targets, _ = make_plan(checkpoint, settings, source=found, result="ours", dtype=None)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        with checkpoint:
            for target in targets:
                (piece,) = target.pieces
                stored = checkpoint.tensors[piece[0]].dtype
                flat = checkpoint.read(*piece)
                array = widen(flat, stored) if dtype == "fp32" else cast(flat, stored, "F16")[0]
                yield target.entry.name, array.reshape(target.entry.shape)

    return arrays()
