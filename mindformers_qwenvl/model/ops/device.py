"""Which device it is and what can be done there: only the modules of `model/ops` ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from mindspore import Tensor, mint
from mindspore import dtype as mstype

from mindformers_qwenvl.host.accumulation import is_sharded
from mindformers_qwenvl.host.context import device_target, parallel_mode

__all__ = ["can_compute_in", "fused_or_plain", "greedy_argmax", "on_ascend", "unsharded"]

Form = TypeVar("Form")


def on_ascend() -> bool:
    return device_target() == "Ascend"


def unsharded() -> bool:
    """Whether shapes may depend on data and heads may be separated: not on Ascend, nor where operators are split."""
    return not on_ascend() and not is_sharded(parallel_mode())


def fused_or_plain(fused: Form, plain: Form) -> Form:
    """`fused`, which uses operators that only Ascend has, or `plain`, which runs everywhere."""
    return fused if on_ascend() else plain


def greedy_argmax() -> Callable:
    """The argmax of greedy search: `mint.argmax`, which the host uses, has no CPU kernel.

    Logits [B, V] of a CPU are numpy's to read, and starting one more operator takes longer than looking at them.
    """
    return fused_or_plain(mint.argmax, lambda logits, axis: Tensor(np.argmax(logits.asnumpy(), axis)))


def can_compute_in(dtype: mstype.Type) -> bool:
    """Whether the device has operators for `dtype`: a CPU has no product of bfloat16 matrices."""
    return dtype != mstype.bfloat16 or device_target() != "CPU"
