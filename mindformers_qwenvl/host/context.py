"""What MindSpore's context says: the device, and how several processes share the work. Nothing else reads it.

`model/ops` asks for the device, to choose operators. What MindFormers does differently on a CPU has a function of its
own here, which the rest of `host/` calls.
"""

from __future__ import annotations

import mindspore as ms

__all__ = [
    "device_target",
    "has_barrier",
    "is_data_parallel",
    "is_sharded",
    "join_job",
    "lacks_ascend_operators",
    "parallel_mode",
    "pipeline_stages",
    "share_network",
    "sinks_data",
    "weights_at_hand",
    "whole_batches",
]


def device_target() -> str:
    """`Ascend`, `CPU` or `GPU`."""
    return ms.get_context("device_target")


def sinks_data() -> bool:
    """Whether a dataset can run on the device by itself (`sink_mode`): not on a CPU."""
    return device_target() != "CPU"


def has_barrier() -> bool:
    """Whether the processes of a job can wait for each other by the operator `Barrier`, which a CPU does not have."""
    return device_target() != "CPU"


def weights_at_hand() -> bool:
    """Whether weights are in this machine's memory; those of a card would have to be copied from it."""
    return device_target() == "CPU"


def lacks_ascend_operators() -> bool:
    """Whether a YAML for Ascend may name what this device cannot do: bfloat16, looking for overflows."""
    return device_target() == "CPU"


def parallel_mode() -> str:
    """`stand_alone`, `data_parallel`, `semi_auto_parallel`, ..."""
    return ms.get_auto_parallel_context("parallel_mode")


def is_data_parallel() -> bool:
    """Whether each process holds the whole network and has its own part of a batch."""
    return parallel_mode() == "data_parallel"


def is_sharded() -> bool:
    """Whether operators are split over the cards."""
    return parallel_mode() in ("semi_auto_parallel", "auto_parallel")


def whole_batches() -> bool:
    """Whether each process reads the whole batch (`full_batch`), and not its own part of it."""
    return bool(ms.get_auto_parallel_context("full_batch"))


def pipeline_stages() -> int:
    """Pipeline stages of the job, 1 or more."""
    return ms.get_auto_parallel_context("pipeline_stages")


def join_job() -> None:
    """Register this process with msrun's scheduler, and wait for all others. In the scheduler itself, this returns
    only when the others have ended."""
    from mindspore.communication import GlobalComm, init

    if not GlobalComm.INITED:
        init()


def share_network() -> bool:
    """Let msrun's processes share the weights of the next network, as its strategies say. Returns whether they do: on a
    CPU, for which MindSpore does not compile such graphs, each process has the whole network."""
    if device_target() == "CPU":
        return False
    from mindspore.parallel import set_algo_parameters

    ms.set_auto_parallel_context(parallel_mode="semi_auto_parallel", full_batch=True)
    set_algo_parameters(elementwise_op_strategy_follow=True, fully_use_devices=True)  # as MindFormers sets them
    return True
