"""A work-around of a fault of MindFormers that mixes samples up when a dataset maps with several threads."""

from __future__ import annotations

import threading
from typing import Any

from mindformers.models.multi_modal.utils import DataRecord

_lock = threading.Lock()


class ThreadRecord(DataRecord):
    """A record with contents of its own in every thread.

    Host: mindformers/models/multi_modal/base_multi_modal_processor.py, BaseXModalToTextTransform. One record, emptied
    for each sample, serves all threads of `dataset.map`, so with `num_parallel_workers` above 1 and
    `python_multiprocessing: False` a sample ends with columns of another one, or in an error. Seen in 1.9. Can go when
    the transform makes a record for each call: tests/data/test_stock_dataset.py,
    test_stock_record_is_shared.
    """

    @property
    def data(self) -> dict[str, Any]:
        return self._by_thread.setdefault(threading.get_ident(), {})

    @data.setter
    def data(self, value: dict[str, Any]) -> None:
        self._by_thread[threading.get_ident()] = value


def separate_threads(record: DataRecord) -> None:
    """Make `record` a `ThreadRecord`. The template calls it before it puts anything in, so nothing is lost."""
    with _lock:
        if type(record) is DataRecord:
            record._by_thread = {}
            record.__class__ = ThreadRecord
