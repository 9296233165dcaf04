"""Samples that the loader's thread prepares ahead, while the transform's threads are busy with pictures.

MindSpore reads samples in a thread of its own, which has little to do, and passes only text to the transform. This is a
second way between the two: the loader puts a ticket on each sample, and the transform exchanges it for the tokens and
the bytes of the pictures. If there are none (before the first sample has come through, in another process, from another
loader), the transform does the work itself. The results are the same.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mindformers_qwenvl.datasets.annotations import SampleNote

__all__ = ["PreparedSamples", "prepared"]

Turns: TypeAlias = Sequence[tuple[str, str]]
Prepare: TypeAlias = Callable[[Turns, "SampleNote | None"], Any]

_numbers = itertools.count(1)
_loaders: weakref.WeakValueDictionary[int, PreparedSamples] = weakref.WeakValueDictionary()


class PreparedSamples:
    """The samples that one loader has prepared: at most the last `kept`, since a stopped dataset leaves some behind."""

    def __init__(self, kept: int = 16) -> None:
        self.kept = kept
        self.number = next(_numbers)
        self.prepare: Prepare | None = None
        self.ready: dict[int, tuple[Prepare, Any, Exception | None]] = {}
        self._tickets = itertools.count()
        _loaders[self.number] = self

    def __deepcopy__(self, memo: dict) -> PreparedSamples:
        return self  # MindSpore copies datasets; the tickets stay valid

    def __reduce__(self) -> tuple:
        return PreparedSamples, (self.kept,)  # another process has its own

    def offer(self, turns: Turns, note: SampleNote) -> SampleNote:
        """Prepare a sample as the transform would; returns its note with the ticket. `prepared` raises its errors."""
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
    """The result of `prepare(turns, note)`: taken from the loader if it is ready there, or else made now.

    From then on the loader prepares its samples with `prepare`.

    Raises:
        Exception: what `prepare` raises.
    """
    loader = _loaders.get(note.loader) if note and note.loader is not None else None
    if loader is None:
        return prepare(turns, note)
    loader.prepare = prepare
    found = loader.ready.pop(note.ticket, None)
    if found is None or found[0] != prepare:  # dropped, or prepared for another template
        return prepare(turns, note)
    if found[2] is not None:
        raise found[2]
    return found[1]
