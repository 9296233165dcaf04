"""What MindFormers' callbacks and wrappers know about a run but have no public name for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["loss_parts", "saved_checkpoint", "steps_before", "unwrapped"]


def steps_before(params: Any) -> int | None:
    """The number of steps of the run that this one resumes; None if no callback knows it.

    Host: mindformers/trainer/base_trainer.py, training_process, tells only its own callbacks: MFLossMonitor as
    `initial_step`, CheckpointMonitor as `_append_step_num`. Seen in 1.7-2.1. Can go when the host passes the number to
    every callback.
    """
    told = [getattr(callback, "initial_step", None) for callback in params.list_callback]
    saved = [getattr(callback, "_append_step_num", None) for callback in params.list_callback]
    known = [int(steps) for steps in (params.get("initial_step"), *told, *saved) if steps is not None]
    return max(known, default=None)


def saved_checkpoint(params: Any) -> bool:
    """Whether a checkpoint was saved at the end of this step, by a callback that runs before the caller.

    Host: mindformers/core/callback/callback.py, CheckpointMonitor, keeps the step of its last checkpoint to itself, as
    `_last_triggered_step`. Seen in 1.7-2.1. Can go when callbacks are told of a checkpoint.
    """
    saved = (getattr(callback, "_last_triggered_step", None) for callback in params.list_callback)
    return any(step == params.cur_step_num for step in saved if step)


def loss_parts(network: Any) -> int:
    """Into how many parts the cells around a train step's network split a batch. The losses of the parts are added up.

    Host: mindformers/wrapper/wrapper.py and mindspore's PipelineCell and _VirtualDatasetCell, which name what they wrap
    `network` or `_backbone`. Seen in 1.7-2.1. Can go when the loss of a pipeline is the mean over its micro batches.
    """
    parts = 1
    for cell in _cells_around(network.network):  # what is inside the train step
        parts *= int(getattr(cell, "micro_size", 1)) * int(getattr(cell, "interleave_num", 1))
    return parts


def unwrapped(network: Any) -> Any:
    """The network itself, without the cells that MindFormers and MindSpore put around it: see `loss_parts`."""
    for cell in _cells_around(network):
        network = _inside(cell)
    return network


def _cells_around(network: Any) -> Iterator[Any]:
    """The cells around a network, from the outermost."""
    while _inside(network) is not None:
        yield network
        network = _inside(network)


def _inside(cell: Any) -> Any:
    return cell.network if hasattr(cell, "network") else getattr(cell, "_backbone", None)
