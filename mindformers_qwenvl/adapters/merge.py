"""A checkpoint with an adapter merged into it, read as if it were one checkpoint: a few rows at a time.

W becomes W + scale * B A; with DoRA's magnitudes m it becomes m * (W + scale * B A) / |W + scale * B A|, row by row. It
is computed in float32 from what the files hold and rounded once, to the dtype of the result.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.tensors import factor_of, module_of
from mindformers_qwenvl.weights.convert.dtypes import cast_into, new_scratch, widen
from mindformers_qwenvl.weights.formats.readable import Readable, TensorInfo
from mindformers_qwenvl.weights.names import Part, layout, to_original

__all__ = ["Change", "Merged"]

# Rows that are computed together. They are the same ones wherever a block begins, so a number is the same to the last
# bit in whatever block it is read: the order of the sums in a product may depend on its shape.
ROWS = 16
KEPT = 4  # modules whose factors are kept, because several threads read


@dataclass(frozen=True)
class Change:
    """How much a module's weight was changed: the Frobenius norms of what was added, and of the weight before."""

    module: str
    delta: float
    weight: float

    @property
    def size(self) -> float:
        return self.delta / self.weight if self.weight else float(self.delta > 0)


@dataclass(frozen=True)
class _Factors:
    a: np.ndarray  # [rank, in]
    b: np.ndarray  # [out, rank], times the scale
    magnitude: np.ndarray | None


class Merged(Readable):
    """`base` with `adapter` merged into it, under the names that `base` has, the original's or ours.

    A merged tensor has the dtype `dtype`, or its own if that is None.
    """

    def __init__(self, base: Readable, adapter: Adapter, dtype: str | None = None):
        """Plan the merge; reads no numbers."""
        self.path, self.of_ranks = base.path, base.of_ranks
        self.files = [*base.files, *adapter.files]
        self.adapter = adapter
        self._base = base
        self._places: dict[str, Part] = {}
        self._sums: dict[str, dict[tuple[int, int], tuple[float, float]]] = {}
        self._factors: OrderedDict[str, _Factors] = OrderedDict()
        self._loading, self._counting = threading.Lock(), threading.Lock()
        self._scratch = threading.local()
        ours = layout(base.tensors, str(base.path)) == "ours"
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in base.tensors.items():
            if factor_of(name) is not None:  # a training's own adapter: merged, or dropped for another one
                continue
            place = self._place(name, ours)
            if place is not None:
                self._places[name] = place
                info = TensorInfo(dtype or info.dtype, info.shape)
            self.tensors[name] = info

    def _place(self, name: str, ours: bool) -> Part | None:
        """Where in the original a tensor is, if the adapter changes it."""
        try:
            place = to_original(name) if ours else Part(name, 0, 1)
        except ValueError:
            return None  # a training's state, or not of this model: the comparison with the config reports it
        changed = module_of(place.name) in self.adapter.targets or place.name in self.adapter.saved
        return place if changed else None

    def stored(self, name: str) -> tuple[str, ...]:
        return self._base.stored(name)

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        place = self._places.get(name)
        if place is None:
            self._base.read_into(name, start, numbers)
            return
        info = self.tensors[name]
        rows, columns = (info.shape[0], int(np.prod(info.shape[1:]))) if info.shape else (1, 1)
        first, done = start // columns, 0
        row = first - first % ROWS
        while done < numbers.size:
            count = min(ROWS, rows - row)
            block = self._rows(name, place, row, count, rows, columns).reshape(-1)
            begin = max(0, start - row * columns)
            piece = block[begin : begin + numbers.size - done]
            self._cast(piece, numbers[done : done + piece.size], info.dtype)
            done += piece.size
            row += count

    def _cast(self, values: np.ndarray, into: np.ndarray, dtype: str) -> None:
        if not hasattr(self._scratch, "room"):
            self._scratch.room = new_scratch()
        cast_into(np.ascontiguousarray(values), "F32", into, dtype, self._scratch.room)

    def _rows(self, name: str, place: Part, row: int, count: int, rows: int, columns: int) -> np.ndarray:
        """Rows [row, row + count) of the merged tensor, float32 [count, columns]."""
        offset = place.index * rows
        if place.name in self.adapter.saved:
            start = (offset + row) * columns
            weight = self.adapter.read_saved(place.name, start, start + count * columns)
        else:
            weight = widen(
                self._base.read(name, row * columns, (row + count) * columns), self._base.tensors[name].dtype
            )
        weight = weight.reshape(count, columns)
        module = module_of(place.name)
        if module not in self.adapter.targets:
            return weight
        factors = self._of(module)
        delta = factors.b[offset + row : offset + row + count] @ factors.a
        merged = weight + delta
        if factors.magnitude is not None:
            norm = np.linalg.norm(merged.astype(np.float64), axis=1)
            scale = factors.magnitude[offset + row : offset + row + count] / np.where(norm, norm, 1)
            merged = (merged * scale[:, None]).astype(np.float32)
            delta = merged - weight
        squares = float(np.vdot(delta, delta)), float(np.vdot(weight, weight))
        with self._counting:
            self._sums.setdefault(module, {})[offset + row, count] = squares
        return merged

    def _of(self, module: str) -> _Factors:
        with self._loading:
            if module in self._factors:
                self._factors.move_to_end(module)
                return self._factors[module]
            a, b = self.adapter.factors(module)
            b = b * np.float32(self.adapter.targets[module].scale)
            found = _Factors(a, b, self.adapter.magnitude(module))
            self._factors[module] = found
            while len(self._factors) > KEPT:
                self._factors.popitem(last=False)
            return found

    def changes(self) -> list[Change]:
        """How much each module was changed; only modules whose rows have all been read."""
        found = []
        for module in self.adapter.targets:
            sums = self._sums.get(module, {})
            rows = next((self._rows_of(name) * place.of for name, place in self._places.items()
                         if module_of(place.name) == module), 0)  # fmt: skip
            if sum(count for _, count in sums) == rows:
                delta, weight = (sum(pair[side] for pair in sums.values()) ** 0.5 for side in (0, 1))
                found.append(Change(module, delta, weight))
        return found

    def _rows_of(self, name: str) -> int:
        return self.tensors[name].shape[0]

    def copy_to(self, descriptor: int, position: int, name: str, start: int, count: int) -> bool:
        """As `Readable.copy_to`, for tensors that the adapter leaves alone."""
        return name not in self._places and self._base.copy_to(descriptor, position, name, start, count)

    def close(self) -> None:
        self._base.close()
        self.adapter.close()
