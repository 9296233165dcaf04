"""A work-around for processes on a CPU, which cannot wait for each other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import ops
from mindspore.communication import GlobalComm

from mindformers_qwenvl.host.context import has_barrier
from mindformers_qwenvl.host.replacements import Replacements
from mindformers_qwenvl.host.work_around import NotAvailable

__all__ = ["wait_on_cpu"]

OWNERS = ("mindspore.communication.comm_func", "mindspore.mint.distributed")  # up to MindFormers 1.9; since 2.0


def wait_on_cpu() -> None:
    """Let processes wait for each other on a CPU, as the host has them do before a training is resumed.

    Host: mindformers/utils/parallel_utils.py and others call `barrier` of mindspore.communication.comm_func or, in 2.1,
    of mindspore.mint.distributed, whose operator has no CPU kernel (RuntimeError: Unsupported op [Barrier] on CPU).
    Here the processes add up a number instead. Seen in 1.7-2.1 on MindSpore 2.7-2.10. Can go when both `barrier()` work
    in two processes on a CPU.
    """
    replacements, found = Replacements(), False
    for name in OWNERS:
        try:
            owner = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(owner, "barrier"):
            replacements.add_wherever_imported(owner, "barrier", _adding_up)
            found = True
    if not found:
        raise NotAvailable(f"there is no barrier in {' or '.join(OWNERS)}")
    replacements.apply()


def _adding_up(stock: Callable) -> Callable:
    def barrier(group: str | None = None, *args: Any, **kwargs: Any) -> Any:
        group = group or GlobalComm.WORLD_COMM_GROUP
        if has_barrier():
            return stock(group, *args, **kwargs)
        ops.AllReduce(group=group)(ms.Tensor([1.0], ms.float32)).asnumpy()
        return None

    return barrier
