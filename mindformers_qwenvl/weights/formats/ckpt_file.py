"""MindSpore's .ckpt without MindSpore: a protobuf message with few fields, read and written in place.

Schema (mindspore/train/checkpoint_pb2.py): a file is `repeated Value value = 1`; Value is `string tag = 1` and
`Tensor tensor = 2`; Tensor is `repeated int64 dims = 1`, `string tensor_type = 2`, `bytes tensor_content = 3`. A tensor
of more than 512 MiB is split into several consecutive values with the same tag.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from mindformers_qwenvl.files import open_regular
from mindformers_qwenvl.weights.formats.weight_file import MOST_SIDES, StoredTensor, check_sides

__all__ = ["SLICE", "Fields", "ckpt_tensors", "value_header"]

SLICE = 1 << 29  # the most bytes of a tensor that one value holds, as in MindSpore

_CODES = {"Float16": "F16", "BFloat16": "BF16", "Float32": "F32"}
_KINDS = {code: kind for kind, code in _CODES.items()}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CRC_BYTES = 17  # `crc_num` and ten digits, which MindSpore appends on request


class Fields:
    """The fields of the messages in a file; only tags and lengths are read."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def __call__(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """(field number, wire type, value or position, length) of each field between two positions."""
        while start < stop:
            key, start = self._varint(start, stop)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, start = self._varint(start, stop)
                yield number, wire, value, 0
                continue
            if wire == _BYTES:
                length, start = self._varint(start, stop)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"unknown wire type {wire} at byte {start:,}")
            if start + length > stop:
                raise ValueError(f"it ends inside a field of {length:,} bytes at byte {start:,}")
            yield number, wire, start, length
            start += length

    def read(self, start: int, length: int) -> bytes:
        """The content of a short field."""
        if length > 1 << 16:
            raise ValueError(f"a name of {length:,} bytes at byte {start:,}")
        return os.pread(self._descriptor, length, start)

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        value = 0
        for place, byte in enumerate(os.pread(self._descriptor, min(10, stop - start), start)):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, start + place + 1
        raise ValueError(f"expected a number at byte {start:,}")

    def varints(self, start: int, length: int) -> Iterator[int]:
        """The numbers of a packed field."""
        stop = start + length
        while start < stop:
            value, start = self._varint(start, stop)
            yield value


def ckpt_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .ckpt file, without the texts in it, which are notes about the training.

    Raises:
        ValueError: it is not a .ckpt, or is damaged or encrypted.
    """
    with open_regular(path) as file:
        try:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            if size >= _CRC_BYTES and os.pread(descriptor, 7, size - _CRC_BYTES) == b"crc_num":
                size -= _CRC_BYTES
            return _tensors(Fields(descriptor), size)
        except ValueError as error:  # also a name that is not UTF-8
            raise ValueError(f"{path} is not a MindSpore checkpoint, or is damaged or encrypted ({error})") from None


def _tensors(fields: Fields, size: int) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    last = None
    for number, wire, start, length in fields(0, size):
        if (number, wire) != (1, _BYTES):
            raise ValueError(f"found field {number} where a tensor should be")
        name, stored = _value(fields, start, start + length)
        if name in tensors:
            if name != last or tensors[name][:2] != stored[:2]:
                raise ValueError(f"{name} appears twice")
            stored = stored._replace(ranges=tensors[name].ranges + stored.ranges)
        tensors[name] = stored
        last = name
    for name, (dtype, shape, ranges, _) in tensors.items():
        item = {"F16": 2, "BF16": 2, "F32": 4}.get(dtype)
        needed = item
        for side in shape:
            needed = needed and needed * side
        held = sum(count for _, count in ranges)
        if item and held != needed:
            raise ValueError(f"{name} holds {held:,} bytes, its shape needs {needed:,}")
    return {name: stored for name, stored in tensors.items() if stored.dtype != "str"}


def _value(fields: Fields, start: int, stop: int) -> tuple[str, StoredTensor]:
    name, stored = "", StoredTensor("a table", (), ())  # a value without a tensor is one of MindSpore's hash tables
    for number, wire, at, length in fields(start, stop):
        if (number, wire) == (1, _BYTES):
            name = fields.read(at, length).decode("utf-8")
        elif (number, wire) == (2, _BYTES):
            stored = _tensor(fields, at, at + length)
    return name, stored


def _tensor(fields: Fields, start: int, stop: int) -> StoredTensor:
    dims: list[int] = []
    kind, content = "", (start, 0)
    for number, wire, at, length in fields(start, stop):
        if number == 1:
            dims += [at] if wire == _VARINT else itertools.islice(fields.varints(at, length), MOST_SIDES + 1)
            check_sides("a tensor", dims)
        elif (number, wire) == (2, _BYTES):
            kind = fields.read(at, length).decode("utf-8")
        elif (number, wire) == (3, _BYTES):
            content = at, length
    shape = () if dims == [0] else tuple(dims)  # how MindSpore writes a single number
    return StoredTensor(_CODES.get(kind, kind), shape, (content,))


def value_header(name: str, dtype: str, shape: tuple[int, ...], length: int) -> bytes:
    """What comes before `length` bytes of numbers in a file of values.

    Args:
        dtype: F16, BF16 or F32.
        shape: of the whole tensor; the numbers may be a slice of it.
    """
    dims = b"".join(b"\x08" + _encoded(side) for side in shape or (0,))
    tensor = dims + _field(2, _KINDS[dtype].encode()) + b"\x1a" + _encoded(length)
    tag = _field(1, name.encode())
    whole = b"\x12" + _encoded(len(tensor) + length)
    return b"\x0a" + _encoded(len(tag) + len(whole) + len(tensor) + length) + tag + whole + tensor


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
