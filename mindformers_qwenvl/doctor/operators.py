"""The fused operators of an accelerator against the plain forms of a CPU, on the same numbers.

Both run through the cells of `model/ops` and `model/cache.py`, which choose their form by the device: one process
computes on the device, another on the CPU of the same machine, and the differences are compared here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mindformers_qwenvl.doctor.findings import FAILED, NOT_CHECKED, OK, Finding
from mindformers_qwenvl.doctor.process import Broken, call

__all__ = ["OPERATORS", "compare", "compute", "operators"]

SECTION = "Operators, fused against plain"
OPERATORS = ("RMSNorm", "Rotary", "Attention", "causal Attention", "Gelu", "PagedCache and PagedAttention", "argmax")
# As a part of the plain form's largest number. The significand of float16 has 11 bits, that of bfloat16 8.
TOLERANCES = {"float16": 5e-3, "bfloat16": 4e-2}
BATCH, HEADS, LENGTH, DIM, BLOCK = 2, 2, 64, 128, 16


def compute(device: str, dtype: str, file: str) -> list[str]:
    """Runs in a separate process: every operator forward, and backward where it is trained, on `device`.

    Writes the results to `file` (npz), by name, and returns the errors: an operator that raises has no result. Inputs
    are rounded to `dtype`; a CPU computes with them in float32.
    """
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target=device)
    computed_in = ms.float32 if device == "CPU" else getattr(ms, dtype)
    maker = _Numbers(dtype, computed_in)
    results: dict[str, np.ndarray] = {}
    errors = []
    for name, run in _cases(computed_in).items():
        try:
            for part, array in run(maker).items():
                results[f"{name}: {part}"] = array
        except Exception as error:
            errors.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    np.savez(file, **results)
    return errors


class _Numbers:
    """Seeded numbers, rounded to a dtype, so that both devices get the same."""

    def __init__(self, dtype: str, computed_in: Any):
        self.dtype, self.computed_in = dtype, computed_in

    def __call__(self, *shape: int, seed: int) -> Any:
        import mindspore as ms

        drawn = ms.Tensor(np.random.RandomState(seed).randn(*shape).astype(np.float32))
        return ms.Tensor(_rounded(drawn.asnumpy(), self.dtype), self.computed_in)


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers that `dtype` can hold."""
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _cases(dtype: Any) -> dict[str, Any]:
    import mindspore as ms

    from mindformers_qwenvl.model import ops

    def rms_norm(numbers: _Numbers) -> dict[str, np.ndarray]:
        return _both_ways(ops.RMSNorm(HEADS * DIM, 1e-6, dtype), numbers(BATCH, LENGTH, HEADS * DIM, seed=1))

    def rotary(numbers: _Numbers) -> dict[str, np.ndarray]:
        angles = np.outer(np.arange(LENGTH), 10000.0 ** (-np.arange(DIM // 2) / (DIM // 2)))
        angles = ms.Tensor(np.broadcast_to(angles, (BATCH, 1, *angles.shape)).astype(np.float32))
        cos, sin = ops.RotaryTables(HEADS)(angles)
        cos, sin = cos.astype(dtype), sin.astype(dtype)
        return _both_ways(ops.Rotary(dtype), numbers(BATCH, HEADS, LENGTH, DIM, seed=2), cos, sin)

    def attention(causal: bool) -> Any:
        def run(numbers: _Numbers) -> dict[str, np.ndarray]:
            from mindformers.core.parallel_config import default_parallel_config

            cell = ops.Attention(
                HEADS, DIM, causal=causal, use_flash_attention=True, parallel_config=default_parallel_config
            )
            return _both_ways(cell, *(numbers(BATCH, HEADS, LENGTH, DIM, seed=seed) for seed in (3, 4, 5)))

        return run

    def gelu(numbers: _Numbers) -> dict[str, np.ndarray]:
        return _both_ways(ops.Gelu(dtype, (1, 1, 1)), numbers(BATCH, LENGTH, DIM, seed=6))

    def argmax(numbers: _Numbers) -> dict[str, np.ndarray]:
        return {"forward": ops.greedy_argmax()(numbers(BATCH, 1000, seed=7), -1).asnumpy().astype(np.float32)}

    return {
        "RMSNorm": rms_norm,
        "Rotary": rotary,
        "Attention": attention(False),
        "causal Attention": attention(True),
        "Gelu": gelu,
        "PagedCache and PagedAttention": lambda numbers: _cache(numbers, dtype),
        "argmax": argmax,
    }


def _both_ways(cell: Any, x: Any, *more: Any) -> dict[str, np.ndarray]:
    """The output, and the gradients of its product with fixed numbers with respect to each input but tables."""
    import mindspore as ms
    from mindspore import nn, ops

    class Weighed(nn.Cell):
        def __init__(self):
            super().__init__()
            self.cell, self.cast, self.sum = cell, ops.Cast(), ops.ReduceSum()

        def construct(self, weights, x, *more):
            return self.sum(self.cast(self.cell(x, *more), ms.float32) * weights)

    out = cell(x, *more)
    weights = ms.Tensor(np.random.RandomState(9).randn(*out.shape).astype(np.float32))
    inputs = (1,) if len(more) == 2 and more[0].shape[1] != x.shape[1] else tuple(range(1, 2 + len(more)))
    cell.set_train(True)
    gradients = ms.grad(Weighed(), inputs)(weights, x, *more)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    found = {"forward": out.astype(ms.float32).asnumpy()}
    found |= {f"gradient {n}": one.astype(ms.float32).asnumpy() for n, one in enumerate(gradients, 1)}
    return found


def _cache(numbers: _Numbers, dtype: Any) -> dict[str, np.ndarray]:
    """Store rows of 20 and 33 tokens, then compute the attention of one more token of each."""
    import mindspore as ms
    from mindformers.core.parallel_config import default_parallel_config

    from mindformers_qwenvl.model.cache import cached_attention, kv_cache

    config = SimpleNamespace(
        num_blocks=16,
        block_size=BLOCK,
        num_heads=HEADS,
        kv_channels=DIM,
        compute_dtype=dtype,
        softmax_compute_type=ms.float32,
        parallel_config=default_parallel_config,
    )
    cache = kv_cache(config)
    attention = cached_attention(config, cache)
    lengths = (20, 33)
    tables = np.array([[3, 7, -1], [1, 5, 2]], np.int32)
    slots = np.full((BATCH, LENGTH), -1, np.int32)
    for row, length in enumerate(lengths):
        slots[row, :length] = [tables[row, place // BLOCK] * BLOCK + place % BLOCK for place in range(length)]
    keys, values = (numbers(BATCH, LENGTH, HEADS * DIM, seed=seed) for seed in (11, 12))
    stored = cache(keys, values, ms.Tensor(slots.reshape(-1)))
    query = numbers(BATCH, 1, HEADS * DIM, seed=13)
    blocks = np.where(tables < 0, 0, tables).astype(np.int32)  # positions beyond a row's length are masked
    out = attention(query, stored, ms.Tensor(blocks), ms.Tensor(np.array(lengths, np.int32)))
    return {"forward": out.astype(ms.float32).asnumpy()}


def compare(fused: dict[str, np.ndarray], plain: dict[str, np.ndarray], dtype: str) -> Iterator[Finding]:
    """A finding for each result of the plain forms: the largest difference, as part of the largest number."""
    for name, reference in plain.items():
        operator, _, part = name.partition(": ")
        title = f"{operator} {part}, {dtype}"
        if name not in fused:
            yield Finding(SECTION, title, FAILED, "the device returned no result")
            continue
        found = fused[name]
        if found.shape != reference.shape or not np.isfinite(found).all():
            yield Finding(
                SECTION, title, FAILED, f"shape {found.shape} instead of {reference.shape}, or numbers are not finite"
            )
            continue
        largest = float(np.abs(found - reference).max()) / max(float(np.abs(reference).max()), 1e-30)
        good = largest <= TOLERANCES[dtype]
        detail = f"largest difference {largest:.1e} of the largest number"
        detail += "" if good else f"; at most {TOLERANCES[dtype]:.0e} is expected"
        yield Finding(SECTION, title, OK if good else FAILED, detail, {"difference": largest})


def operators(device: str) -> Iterator[Finding]:
    """Compare, for both half-precision dtypes; on a CPU say what could not be checked."""
    if device == "CPU":
        for name in OPERATORS:
            detail = "a CPU has only the plain form, which the tests compare with the original's numbers"
            yield Finding(SECTION, name, NOT_CHECKED, detail)
        return
    with tempfile.TemporaryDirectory(prefix="mindformers-qwenvl-doctor-") as folder:
        for dtype in TOLERANCES:
            arrays = []
            for on in (device, "CPU"):
                file = str(Path(folder) / f"{on}_{dtype}.npz")
                try:
                    for error in call(__name__, "compute", device=on, dtype=dtype, file=file):
                        yield Finding(SECTION, f"{error.partition(':')[0]} on {on}, {dtype}", FAILED, error)
                    with np.load(file) as saved:
                        arrays.append(dict(saved))
                except Broken as error:
                    yield Finding(SECTION, f"{on}, {dtype}", FAILED, str(error))
            if len(arrays) == 2:
                yield from compare(*arrays, dtype)
