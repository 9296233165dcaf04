"""What MindSpore's context says: the device, and how several processes share the work.

`model/ops` asks for the sake of operators, this room for what MindFormers does there; nothing else asks for the device.
"""

from __future__ import annotations

import mindspore as ms

__all__ = ["device_target", "is_data_parallel", "join_job", "parallel_mode", "share_network"]


def device_target() -> str:
    """`Ascend`, `CPU` or `GPU`."""
    return ms.get_context("device_target")


def parallel_mode() -> str:
    """`stand_alone`, `data_parallel`, `semi_auto_parallel`, ..."""
    return ms.get_auto_parallel_context("parallel_mode")


def is_data_parallel() -> bool:
    """Whether each process holds the whole network and has its own part of a batch."""
    return parallel_mode() == "data_parallel"


def join_job() -> None:
    """Register this process with msrun's scheduler, and wait for all others; the scheduler itself stays here until the
    others have ended."""
    from mindspore.communication import GlobalComm, init

    if not GlobalComm.INITED:
        init()


def share_network() -> bool:
    """Have the processes of msrun share the weights of the next network, as its strategies say. Returns whether they
    do: on a CPU, for which MindSpore compiles no such graphs, each process has the whole network."""
    if device_target() == "CPU":
        return False
    from mindspore.parallel import set_algo_parameters

    ms.set_auto_parallel_context(parallel_mode="semi_auto_parallel", full_batch=True)
    set_algo_parameters(elementwise_op_strategy_follow=True, fully_use_devices=True)  # as MindFormers sets them
    return True
