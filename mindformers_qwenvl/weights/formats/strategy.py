"""How a distributed training cut its weights: MindSpore's strategy files, read without MindSpore.

Schema: mindspore/train/node_strategy_pb2.py. The devices of a pipeline stage form a grid, `devices`. Each dimension
of a weight may be cut along axes of the grid; optimizer parallelism may then cut the first dimension of a card's part
once more, along axes that cut no dimension.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindformers_qwenvl.weights.formats.ckpt_file import Fields

__all__ = ["Cut", "read_strategies"]


@dataclass(frozen=True)
class Cut:
    """How one weight is cut.

    Attributes:
        devices: sides of the grid of devices of a stage; ranks fill it in row-major order.
        axes: for each dimension of the weight, the axes of the grid it is cut along, the coarsest first.
        optimizer: into how many parts optimizer parallelism cuts the first dimension; 1 if it does not.
    """

    devices: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    optimizer: int

    @property
    def parts(self) -> tuple[int, ...]:
        """Into how many parts each dimension is cut; for a weight without dimensions, none."""
        parts = [math.prod(self.devices[axis] for axis in axes) for axes in self.axes]
        return (parts[0] * self.optimizer, *parts[1:]) if parts else ()

    def part(self, rank: int) -> tuple[int, ...]:
        """Which part in each dimension the card `rank` holds."""
        place, left = [], rank % math.prod(self.devices)
        for side in reversed(self.devices):
            place.insert(0, left % side)
            left //= side
        part = []
        for axes in self.axes:
            index = 0
            for axis in axes:
                index = index * self.devices[axis] + place[axis]
            part.append(index)
        if part and self.optimizer > 1:
            part[0] = part[0] * self.optimizer + self._optimizer_part(place)
        return tuple(part)

    def _optimizer_part(self, place: Sequence[int]) -> int:
        """Axes that cut no dimension are used, the last ones first; of an axis that is too long, the finer part."""
        cutting = {axis for axes in self.axes for axis in axes}
        index, reach = 0, 1
        for axis in reversed(range(len(self.devices))):
            if axis not in cutting and reach < self.optimizer:
                share = min(self.devices[axis], self.optimizer // reach)
                index += place[axis] % share * reach
                reach *= share
        return index


def read_strategies(paths: Iterable[Path]) -> dict[str, Cut]:
    """Parameter -> how it is cut, from the strategy files of all ranks, of one rank, or a merged one.

    Raises:
        ValueError: a file is not a strategy file.
    """
    cuts: dict[str, Cut] = {}
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            found = _cuts(Fields(descriptor), size)
        except ValueError as error:
            raise ValueError(f"{path} is not a strategy file of MindSpore ({error})") from None
        finally:
            os.close(descriptor)
        if not found:
            raise ValueError(f"{path} is not a strategy file of MindSpore: it describes no parameter")
        for name, cut in found.items():
            cuts.setdefault(name, cut)
    return cuts


def _cuts(fields: Fields, size: int) -> dict[str, Cut]:
    cuts = {}
    for number, _, start, length in fields(0, size):
        if number != 3:  # parallel_layout_item; the others say how operators are cut
            continue
        name, cut = "", None
        for inner, _, at, count in fields(start, start + length):
            if inner == 1:
                name = fields.read(at, count).decode("utf-8")
            elif inner == 2:
                cut = _cut(fields, at, at + count)
        stage, dash, plain = name.partition("-")
        if cut is None:
            raise ValueError(f"{name!r} has no layout")
        cuts.setdefault(plain if dash and stage.isdigit() else name, cut)  # a merged file puts the stage in front
    return cuts


def _cut(fields: Fields, start: int, stop: int) -> Cut:
    devices: list[int] = []
    maps: list[list[int]] = []
    optimizer = 0
    for number, _, at, length in fields(start, stop):
        if number == 1 and not devices:
            devices = _dims(fields, at, at + length)
        elif number == 2:
            maps.append(_dims(fields, at, at + length))
        elif number == 7:
            optimizer = _signed(at)
    if len(maps) > 1:  # a dimension cut along several axes: one message for each dimension
        axes = [tuple(len(devices) - 1 - place for place in one if place >= 0) for one in maps if one]
    else:
        axes = [(len(devices) - 1 - place,) if place >= 0 else () for place in (maps[0] if maps else [])]
    if any(not 0 <= axis < len(devices) for one in axes for axis in one):
        raise ValueError(f"a dimension is cut along an axis that devices {devices} do not have")
    if optimizer == -1:
        free = set(range(len(devices))) - {axis for one in axes for axis in one}
        optimizer = math.prod(devices[axis] for axis in free)
    return Cut(tuple(devices), tuple(axes), max(optimizer, 1))


def _dims(fields: Fields, start: int, stop: int) -> list[int]:
    dims = []
    for number, wire, at, length in fields(start, stop):
        if number == 1:
            dims += [_signed(at)] if wire == 0 else [_signed(value) for value in fields.varints(at, length)]
    return dims


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
