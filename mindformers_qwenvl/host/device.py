"""The device that MindSpore runs on. `model/ops` asks for operators, this room for what the host does there."""

from __future__ import annotations

import mindspore as ms

__all__ = ["device_target"]


def device_target() -> str:
    """`Ascend`, `CPU` or `GPU`."""
    return ms.get_context("device_target")
