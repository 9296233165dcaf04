"""A work-around for checkpoints whose names have the wrong step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mindformers.core.callback.callback import CheckpointMonitor

from mindformers_qwenvl.host.replacements import Replacements

__all__ = ["name_checkpoints_by_their_step"]


def name_checkpoints_by_their_step() -> None:
    """Name checkpoints by their step in the epoch, even if the run was resumed within an epoch.

    Host: mindformers/core/callback/callback.py, CheckpointMonitor, names a file PREFIX_rank_0-EPOCH_STEP with the epoch
    of the training, but counts the step from the start of this run. With three steps an epoch, a run that was resumed
    after step 8 names step 10 `4_2` and step 12 `4_1`: code that goes by the names, such as convert-weight, takes the
    older one for the latest. MFLossMonitor, in the same file, adds the steps before the run. Seen in 1.7-2.1. Can go
    when CheckpointMonitor adds them, too.
    """
    replacements = Replacements()
    replacements.add(CheckpointMonitor, "save_checkpoint", _counting_from_the_epoch)
    replacements.add(CheckpointMonitor, "save_checkpoint_network", _counting_from_the_epoch)
    replacements.apply()


def _counting_from_the_epoch(stock: Callable) -> Callable:
    @functools.wraps(stock)
    def save(self: Any, cb_params: Any) -> Any:
        batches = cb_params.batch_num
        cb_params.batch_num = _Batches(batches, int(self._append_step_num or 0))
        try:
            return stock(self, cb_params)
        finally:
            cb_params.batch_num = batches

    return save


class _Batches(int):
    """The number of batches of an epoch. The host computes a step's place in the epoch as `(step - 1) % batches`; with
    this class, that counts the steps `before` the run, too."""

    before: int

    def __new__(cls, batches: int, before: int) -> _Batches:
        made = super().__new__(cls, batches)
        made.before = before
        return made

    def __rmod__(self, step: int) -> int:
        return (int(step) + self.before) % int(self)
