"""What the loader's thread gets ready for the transform's, while that one is busy with pictures.

MindSpore reads the samples in a thread of its own, which has next to nothing to do, and hands the transform texts only.
Beside the dataset the two meet here: the loader puts a ticket on each sample, and the transform that has it finds the
tokens and the bytes of the pictures, or does the work itself where there are none: before the first sample has come
through, in another process, from another loader. The results are the same.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mindformers_qwenvl.datasets.annotations import SampleNote

__all__ = ["Ahead", "prepared"]

Turns: TypeAlias = Sequence[tuple[str, str]]
Prepare: TypeAlias = Callable[[Turns, "SampleNote | None"], Any]

_numbers = itertools.count(1)
_loaders: weakref.WeakValueDictionary[int, Ahead] = weakref.WeakValueDictionary()


class Ahead:
    """What one loader has ready: the last `kept` samples at most. A dataset that is stopped leaves some behind."""

    def __init__(self, kept: int = 16) -> None:
        self.kept = kept
        self.number = next(_numbers)
        self.prepare: Prepare | None = None
        self.ready: dict[int, tuple[Prepare, Any, Exception | None]] = {}
        self._tickets = itertools.count()
        _loaders[self.number] = self

    def __deepcopy__(self, memo: dict) -> Ahead:
        return self  # MindSpore copies datasets

    def __reduce__(self) -> tuple:
        return Ahead, (self.kept,)  # another process has its own

    def offer(self, turns: Turns, note: SampleNote) -> SampleNote:
        """Prepare a sample, as the transform does; returns its note with the ticket. An error waits for the taker."""
        if self.prepare is None:
            return replace(note, loader=self.number)
        prepare, ticket = self.prepare, next(self._tickets)
        try:
            self.ready[ticket] = prepare, prepare(turns, note), None
        except Exception as error:
            self.ready[ticket] = prepare, None, error
        while len(self.ready) > self.kept:
            self.ready.pop(next(iter(self.ready)), None)
        return replace(note, loader=self.number, ticket=ticket)


def prepared(turns: Turns, note: SampleNote | None, prepare: Prepare) -> Any:
    """`prepare(turns, note)`, from what its loader has ready or made now; the loader then goes on with `prepare`.

    Raises:
        Exception: what `prepare` raises.
    """
    loader = _loaders.get(note.loader) if note and note.loader is not None else None
    if loader is None:
        return prepare(turns, note)
    loader.prepare = prepare
    found = loader.ready.pop(note.ticket, None)
    if found is None or found[0] != prepare:  # lost, or of another template on the same loader
        return prepare(turns, note)
    if found[2] is not None:
        raise found[2]
    return found[1]
