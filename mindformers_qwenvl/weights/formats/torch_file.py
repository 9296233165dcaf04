"""PyTorch's .bin, .pt and .pth without PyTorch, and without executing what is in them.

Such a file is a pickle that says how to put tensors together, and their raw numbers. The pickle is scanned first and
may hold only the few instructions that a dict of tensors needs; the names it calls are mapped to functions of this
module that only note where a tensor is, and any other name is refused. Files of PyTorch before 1.6, which
are not zip archives, are older than Qwen-VL and refused.
"""

from __future__ import annotations

import errno
import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.files import open_regular
from mindformers_qwenvl.weights.formats.weight_file import StoredTensor, check_sides

__all__ = ["TextKeyUnpickler", "check_instructions", "torch_tensors"]

_LONGEST_PICKLE = 1 << 26  # bytes; that of a published shard of 2 GB is 30,000
_LONGEST_ORDER = 64  # "little" or "big"; a compressed member could be gigabytes
_INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG", "LONG1", "BININT", "BININT1"),
    *("BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "EMPTY_DICT"),
    *("EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    "BINPERSID",
}
_STORAGES = {
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "FloatStorage": ("F32", 4),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class _Kind(NamedTuple):
    """A class of storages: what it holds, and the bytes of one number."""

    dtype: str
    item: int


class _Storage(NamedTuple):
    kind: _Kind
    key: str
    size: int  # in numbers


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise pickle.UnpicklingError("a tensor without shape and strides")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(is_whole(number, 0) for number in numbers):
        raise pickle.UnpicklingError("a tensor that is not a range of numbers")
    check_sides("a tensor", shape)
    if len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor with more sides than strides")
    last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and offset + last >= storage.size:
        raise pickle.UnpicklingError("a tensor that reaches beyond its numbers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): _Kind(*kind) for name, kind in _STORAGES.items()},
}


class TextKeyUnpickler(pickle._Unpickler):
    """Python's unpickler in Python. The keys of its dicts must be strings (other keys can be made to collide, so that a
    small file takes minutes); it copies no dict, sets no attributes, and knows no names until a subclass does."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._set(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if not isinstance(into, dict) or not all(isinstance(key, str) for key in items[::2]):
            raise pickle.UnpicklingError("a key that is not a string")
        into.update(zip(items[::2], items[1::2], strict=True))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if function is OrderedDict and arguments != ():
            raise pickle.UnpicklingError("a copy of a dict")
        if not callable(function) or isinstance(function, _Kind) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls something that is not a function")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        self.stack.pop()  # `_metadata`: versions of modules, of no use here

    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _Unpickler(TextKeyUnpickler):
    """Tensors, noted and not read."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            return super().find_class(module, name)
        return _ALLOWED[module, name]

    def persistent_load(self, given: Any) -> _Storage:
        if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage" or not isinstance(given[1], _Kind):
            raise pickle.UnpicklingError("it refers to something that is not a storage")
        _, kind, key, _device, size, *view = given
        if not isinstance(key, str) or not is_whole(size, 0) or any(part is not None for part in view):
            raise pickle.UnpicklingError("a storage without a valid name and size")
        return self.storages.setdefault(key, _Storage(kind, key, size))


def check_instructions(content: bytes) -> None:
    """Raise UnpicklingError if a pickle uses instructions not needed for lists, dicts, strings, numbers and tensors."""
    for instruction, argument, _ in pickletools.genops(content):
        if instruction.name not in _INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it uses the instruction {instruction.name}")
        if instruction.name == "LONG_BINPUT" and argument > len(content):  # Python would make a table of that length
            raise pickle.UnpicklingError("it counts more values than it has bytes")


def _unpickle(content: bytes) -> Any:
    """The content of a pickle, if it uses only allowed instructions and names."""
    check_instructions(content)
    return _Unpickler(io.BytesIO(content)).load()


# What Python's unpickler and zipfile raise for broken input, besides UnpicklingError.
_DAMAGE = (
    *(EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError),
    *(RuntimeError, struct.error, zipfile.BadZipFile, zlib.error),
)

Place = Callable[[_Storage], int]
"""Gives the position of a storage's numbers in the file."""


def torch_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict that PyTorch saved.

    Raises:
        ValueError: the file is damaged, or holds anything but a dict of tensors; nothing in it has been executed.
    """
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                raise ValueError(
                    "not a zip archive; a file of PyTorch before 1.6 must be loaded and saved again with torch.save"
                )
            state, place = _zipped(file)
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(value, _Tensor) for name, value in state.items()
        ):
            raise pickle.UnpicklingError("expected a dict of tensors (a state dict)")
        return {name: _stored(tensor, place) for name, tensor in state.items()}
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} was refused: it holds more than tensors, or is damaged ({error})") from None
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a position before the beginning
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not a PyTorch checkpoint, or is damaged ({reason})") from None


def _stored(tensor: _Tensor, place: Place) -> StoredTensor:
    (dtype, item), shape = tensor.storage.kind, tensor.shape
    dense, steps = True, 1
    for side, stride in zip(reversed(shape), reversed(tensor.strides), strict=True):
        dense = dense and (stride == steps or side == 1)
        steps *= side
    start = place(tensor.storage) + tensor.offset * item
    if dense or not steps:
        return StoredTensor(dtype, shape, ((start, steps * item),))
    last = sum((side - 1) * stride for side, stride in zip(shape, tensor.strides, strict=True))
    return StoredTensor(dtype, shape, ((start, (last + 1) * item),), tensor.strides)


def _check_order(archive: zipfile.ZipFile, order: zipfile.ZipInfo | None) -> None:
    if order is None:
        return
    if order.file_size > _LONGEST_ORDER:
        raise pickle.UnpicklingError(f"a byteorder of {order.file_size:,} bytes")
    if archive.read(order) != b"little":
        raise pickle.UnpicklingError("its numbers are big-endian")


def _zipped(file: IO[bytes]) -> tuple[Any, Place]:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"expected one data.pkl, found {len(pickles)}")
        folder = pickles[0].removesuffix("data.pkl")
        entries = {entry.filename: entry for entry in archive.infolist()}
        if entries[pickles[0]].file_size > _LONGEST_PICKLE:
            raise pickle.UnpicklingError(f"a pickle of {entries[pickles[0]].file_size:,} bytes")
        _check_order(archive, entries.get(f"{folder}byteorder"))
        state = _unpickle(archive.read(pickles[0]))
        size = file.seek(0, 2)
        positions = {}
        for name, entry in entries.items():
            if not name.startswith(f"{folder}data/"):
                continue
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise pickle.UnpicklingError(f"{name} is compressed or encrypted")
            file.seek(entry.header_offset)
            signature, lengths = struct.unpack("<4s22x4s", file.read(30))
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
            if signature != b"PK\x03\x04" or start + entry.file_size > size:
                raise zipfile.BadZipFile(f"{name} is not where the archive says")
            positions[name.removeprefix(f"{folder}data/")] = start, entry.file_size

    def place(storage: _Storage) -> int:
        start, held = positions[storage.key]
        if held != storage.size * storage.kind.item:
            raise pickle.UnpicklingError(f"storage {storage.key} has {held:,} bytes, not as many as its tensors say")
        return start

    return state, place
