"""What MindSpore's context says: the device, and how several processes share the work.

`model/ops` asks for the sake of operators, this room for what MindFormers does there; nothing else asks for the device.
"""

from __future__ import annotations

import mindspore as ms

__all__ = ["device_target", "is_data_parallel", "parallel_mode"]


def device_target() -> str:
    """`Ascend`, `CPU` or `GPU`."""
    return ms.get_context("device_target")


def parallel_mode() -> str:
    """`stand_alone`, `data_parallel`, `semi_auto_parallel`, ..."""
    return ms.get_auto_parallel_context("parallel_mode")


def is_data_parallel() -> bool:
    """Whether each process holds the whole network and has its own part of a batch."""
    return parallel_mode() == "data_parallel"
