"""Which device it is and what operators it has: only the modules of `model/ops` ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from mindspore import Tensor, mint
from mindspore import dtype as mstype

from mindformers_qwenvl.host.context import device_target, is_sharded

__all__ = [
    "can_compute_in",
    "fused_or_plain",
    "greedy_argmax",
    "in_numpy",
    "logits_to_choose_from",
    "on_ascend",
    "unsharded",
]

Form = TypeVar("Form")


def on_ascend() -> bool:
    return device_target() == "Ascend"


def unsharded() -> bool:
    """Whether shapes may depend on data and heads may be separated: not on Ascend, nor where operators are split."""
    return not on_ascend() and not is_sharded()


def fused_or_plain(fused: Form, plain: Form) -> Form:
    """`fused`, which uses operators that only Ascend has, or `plain`, which runs everywhere."""
    return fused if on_ascend() else plain


def greedy_argmax() -> Callable:
    """The argmax of greedy search: `mint.argmax`, which the host uses, has no CPU kernel.

    On a CPU, numpy can read the logits [B, V], which takes less time than starting one more operator.
    """
    return fused_or_plain(mint.argmax, lambda logits, axis: Tensor(np.argmax(in_numpy(logits), axis)))


def logits_to_choose_from() -> Callable:
    """Gives the logits that `generate()` chooses tokens from: as the device has them, or in numpy on a CPU.

    An operator outside a graph wakes three threads of MindSpore. They then busy-wait for work and take the processors
    from the graph of the next token: a single `reshape` of the host costs 3 ms per token on two processors.
    """
    return fused_or_plain(lambda logits: logits, in_numpy)


def in_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """The values of a tensor on a CPU as an array; bfloat16, which numpy does not have, as float32."""
    if not isinstance(values, Tensor):
        return values
    return (values.astype(mstype.float32) if values.dtype == mstype.bfloat16 else values).asnumpy()


def can_compute_in(dtype: mstype.Type) -> bool:
    """Whether the device has operators for `dtype`: a CPU has no product of bfloat16 matrices."""
    return dtype != mstype.bfloat16 or device_target() != "CPU"
