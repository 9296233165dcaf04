"""A work-around for samples that get mixed up when a dataset maps with several threads."""

from __future__ import annotations

import threading
from typing import Any

from mindformers.models.multi_modal import base_multi_modal_processor
from mindformers.models.multi_modal.utils import DataRecord

from mindformers_qwenvl.host.replacements import Replacements

__all__ = ["ThreadRecord", "separate_threads"]


class ThreadRecord(DataRecord):
    """A record with separate contents for each thread."""

    def __init__(self) -> None:
        self._by_thread: dict[int, dict[str, Any]] = {}
        super().__init__()

    @property
    def data(self) -> dict[str, Any]:
        return self._by_thread.setdefault(threading.get_ident(), {})

    @data.setter
    def data(self, value: dict[str, Any]) -> None:
        self._by_thread[threading.get_ident()] = value


def separate_threads() -> None:
    """Let each thread of `dataset.map` fill a record of its own.

    Host: mindformers/models/multi_modal/base_multi_modal_processor.py, BaseXModalToTextTransform. All threads share one
    record, which is emptied for each sample, so with `num_parallel_workers` above 1 and
    `python_multiprocessing: False` a sample gets columns of another one, or ends in an error. Seen in 1.7-2.1. Can go
    when the transform makes a record for each call.
    """
    replacements = Replacements()
    replacements.add(base_multi_modal_processor, "DataRecord", lambda stock: ThreadRecord)
    replacements.apply()
