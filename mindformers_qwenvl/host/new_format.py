"""A work-around for MindFormers' newer checkpoints (section `checkpoint:`) in data parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindformers.core.callback import callback
from mindformers.tools.utils import get_real_rank

from mindformers_qwenvl.host.context import is_data_parallel
from mindformers_qwenvl.host.replacements import Replacements
from mindformers_qwenvl.host.work_around import NotNeeded

__all__ = ["save_new_format_as_one_process"]

SIZES = ("get_real_group_size", "get_group_size")  # 1.8 and later; 1.7, whose module has only the second
SHARDED = ("get_all_sharded_tensor", "get_all_sharded_tensor_on_rank0")  # 1.8 and 1.9; 2.1. 1.7 has neither


def save_new_format_as_one_process() -> None:
    """Let processes in data parallel save and load with the section `checkpoint:`.

    The host needs to know how weights are sharded, but in data parallel they are not:
    mindformers/checkpoint/sharded_tensor.py, get_all_sharded_tensor (RuntimeError at the first checkpoint) and
    get_cur_sharded_tensor (TypeError). Here the first process saves as a single process would, and all load as a single
    process would. Seen in 1.8-2.1. Can go when two processes save with that section and `parallel_mode: 0`.
    """
    try:
        from mindformers.checkpoint import checkpoint
    except ImportError:
        raise NotNeeded("this MindFormers has no newer format") from None

    replacements = Replacements()
    replacements.add(checkpoint, "ms_save_checkpoint", _by_the_first_process)
    for name in [name for name in SIZES if hasattr(checkpoint, name)]:
        replacements.add(checkpoint, name, _one_in_data_parallel)
    for name in [name for name in SHARDED if hasattr(callback, name)]:
        replacements.add(callback, name, _nothing_in_data_parallel)
    replacements.apply()


def _by_the_first_process(stock: Callable) -> Callable:
    def ms_save_checkpoint(*args: Any, **kwargs: Any) -> None:
        if not is_data_parallel() or get_real_rank() == 0:
            stock(*args, **kwargs)

    return ms_save_checkpoint


def _one_in_data_parallel(stock: Callable) -> Callable:
    def group_size(*args: Any, **kwargs: Any) -> int:
        return 1 if is_data_parallel() else stock(*args, **kwargs)

    return group_size


def _nothing_in_data_parallel(stock: Callable) -> Callable:
    def sharded_tensors(*args: Any, **kwargs: Any) -> Any:
        return None if is_data_parallel() else stock(*args, **kwargs)

    return sharded_tensors
