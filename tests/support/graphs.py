"""What compiled graphs hold."""

from __future__ import annotations

import gc

import mindspore as ms

__all__ = ["release"]


def release() -> None:
    """Give back what the graphs compiled so far hold.

    Without it they keep their memory, also when their networks are gone (those of `value_and_grad` for good), and each
    makes the next slower to compile. Networks that are still there compile theirs anew when they are called.
    """
    gc.collect()  # networks and their graphs are full of cycles
    ms.ms_memory_recycle()
