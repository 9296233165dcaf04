"""Which device it is and what may be done there: what the operators, the cache and the train step ask."""

from __future__ import annotations

import mindspore as ms
from mindspore import mint
from mindspore import ops as P

__all__ = ["greedy_argmax", "on_ascend", "unsharded"]


def on_ascend() -> bool:
    return ms.get_context("device_target") == "Ascend"


def unsharded() -> bool:
    """Whether shapes may depend on data and heads be taken apart: not on Ascend, nor where operators are split."""
    mode = ms.get_auto_parallel_context("parallel_mode")
    return not on_ascend() and mode not in ("semi_auto_parallel", "auto_parallel")


def greedy_argmax():
    """The argmax of greedy search: the host's `mint.argmax` has no CPU kernel."""
    return mint.argmax if on_ascend() else P.argmax
