"""GPTQ checkpoints, such as Qwen-VL-Chat-Int4, read as if their matrices were stored as numbers. numpy alone.

A matrix W [out, in] is stored as (AutoGPTQ's layout; an int32 is filled from its lowest bits on):

    qweight  int32 [in * bits / 32, out]       q of each input, packed along the inputs
    qzeros   int32 [groups, out * bits / 32]   zero - 1 of each group of inputs, packed along the outputs
    scales   float16 [groups, out]
    g_idx    int32 [in]                        the group of each input; may be left out if groups are in order
    bias     float16 [out]                     all zeros if the model has none

and W = (q - zero) * scale. It is read here as float32, which holds these numbers exactly. Only the packed form
of a matrix is in memory, an eighth of the size at 4 bits; rows of W are unpacked when they are read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_qwenvl.files import read_json
from mindformers_qwenvl.weights.convert.dtypes import ITEM_BYTES, STORAGE, widen
from mindformers_qwenvl.weights.formats.gptq_packed import Packed, dequantise, unpacked
from mindformers_qwenvl.weights.formats.gptq_pairs import Pairs, pairs_of, unpack_pairs
from mindformers_qwenvl.weights.formats.readable import Readable, TensorInfo
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.shapes import listed, original_shapes

__all__ = ["GptqCheckpoint", "as_numbers"]

BITS = (2, 3, 4, 8)
PACKED = ("qweight", "qzeros", "scales", "g_idx")
KEPT = 2  # matrices kept in their packed form: threads may be at the end of one and the beginning of the next
ROWS, PAIR_ROWS = 32, 64  # outputs that are unpacked together, as float32 and as 16 bits
# Formats that cannot be read, by the ends of their tensor names.
_OTHERS = {
    ".absmax": "bitsandbytes (4 bits)",
    ".SCB": "bitsandbytes (8 bits)",
    ".weight_scale_inv": "fp8",
    ".weight_scale": "fp8 or int8 of compressed-tensors",
    ".weight_packed": "compressed-tensors",
    ".qscales": "another quantisation",
}
_SAVE_PLAIN = "Give the original float16 or bfloat16 weights, or have the tool that quantised it save it dequantised"


def as_numbers(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Readable:
    """`checkpoint`, or a view of it with numbers for its quantised matrices.

    Args:
        config: the original config.json; its `quantization_config`, or quantize_config.json beside the weights, says
            how.

    Raises:
        ValueError: it is quantised in a way that is not read (the message names it), or parts of a matrix do not fit.
    """
    settings = _settings(checkpoint.path, config)
    method = str(settings.get("quant_method") or "").lower()
    quantised = any(name.endswith(".qweight") for name in checkpoint.tensors)
    if method in ("awq", "fp8", "bitsandbytes", "aqlm", "hqq", "eetq", "quanto", "compressed-tensors"):
        raise ValueError(f"{checkpoint.path} is quantised by {method}, but only GPTQ can be read. {_SAVE_PLAIN}")
    for name, info in checkpoint.tensors.items():
        kind = next((words for end, words in _OTHERS.items() if name.endswith(end)), None)
        if kind is None and info.dtype.startswith("F8"):
            kind = "fp8"
        if kind is not None:
            raise ValueError(
                f"{checkpoint.path} is quantised by {kind} ({name}), but only GPTQ can be read. {_SAVE_PLAIN}"
            )
    if not quantised:
        return checkpoint
    return GptqCheckpoint(checkpoint, config, settings)


def _settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("quantization_config")
    if isinstance(found, dict):
        return found
    file = (path if path.is_dir() else path.parent) / "quantize_config.json"
    if not file.is_file():
        return {}
    content = read_json(file)
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class _Matrix:
    """What the headers say about a quantised matrix. `parts`: names of its tensors by their ends."""

    parts: dict[str, str]
    shape: tuple[int, int]  # [out, in]
    bits: int
    groups: int


class GptqCheckpoint(Readable):
    """A GPTQ checkpoint of the original's layout, read as an original one: float32 matrices, the rest as it is."""

    def __init__(self, checkpoint: Checkpoint, config: Mapping[str, Any], settings: Mapping[str, Any]):
        """Find the matrices; the only numbers read are those of biases that the model does not have.

        Raises:
            ValueError: parts of a matrix are missing or do not fit together, or a bias that the model does not have is
                not all zeros.
        """
        self.path, self.files, self.of_ranks = checkpoint.path, checkpoint.files, checkpoint.of_ranks
        self._checkpoint = checkpoint
        self._plus_one = str(settings.get("checkpoint_format") or "gptq").lower() != "gptq_v2"
        self._bits = settings.get("bits")
        size = settings.get("group_size")
        self._group_size = size if type(size) is int and size > 0 else None  # -1: one group
        if self._bits is not None and self._bits not in BITS:
            raise ValueError(f"{self.path}: quantised to {self._bits!r} bits, expected one of {BITS}")
        self._matrices: dict[str, _Matrix] = {}
        self._packed: OrderedDict[str, Packed] = OrderedDict()
        self._pairs: dict[str, tuple[str, Pairs | None]] = {}
        self._loading = threading.Lock()
        self.tensors: dict[str, TensorInfo] = {}
        self.dropped: list[str] = []
        wanted, faults = original_shapes(config), []
        stems = {name.removesuffix(".qweight") for name in checkpoint.tensors if name.endswith(".qweight")}
        for name, info in checkpoint.tensors.items():
            stem, _, kind = name.rpartition(".")
            if stem in stems and kind in PACKED:
                if kind == "qweight":
                    try:
                        matrix = self._matrix(stem, wanted.get(f"{stem}.weight"))
                    except ValueError as error:
                        faults.append(str(error))
                        continue
                    self._matrices[f"{stem}.weight"] = matrix
                    self.tensors[f"{stem}.weight"] = TensorInfo("F32", matrix.shape)
            elif stem in stems and kind == "bias" and name not in wanted:
                if widen(checkpoint.read(name), info.dtype).any():
                    faults.append(f"{name} is not all zeros, but the model has no such bias")
                self.dropped.append(name)
            else:
                self.tensors[name] = info
        if faults:
            raise ValueError(f"{self.path} cannot be read.\n  " + "\n  ".join(faults[:20]))

    def _matrix(self, stem: str, shape: tuple[int, ...] | None) -> _Matrix:
        found = self._checkpoint.tensors
        parts = {kind: f"{stem}.{kind}" for kind in PACKED if f"{stem}.{kind}" in found}
        if lacking := [kind for kind in PACKED[:3] if kind not in parts]:
            raise ValueError(f"{stem}.qweight is there, but not its {listed(lacking)}")
        if shape is None:
            raise ValueError(f"{stem} is not a layer of this model")
        rows, columns = shape
        words = found[parts["qweight"]].shape
        bits = words[0] * 32 // columns if len(words) == 2 and columns else 0
        if bits not in BITS or words != (columns * bits // 32, rows) or self._bits not in (None, bits):
            expected = [columns * (self._bits or 4) // 32, rows]
            raise ValueError(
                f"{parts['qweight']} is {list(words)}, expected {expected} for {stem}.weight {[rows, columns]} at "
                f"{self._bits or 4} bits"
            )
        scales = found[parts["scales"]].shape
        groups = scales[0] if len(scales) == 2 else 0
        wanted = {"scales": (groups, rows), "qzeros": (groups, rows * bits // 32), "g_idx": (columns,)}
        for kind, name in parts.items():
            if kind != "qweight" and (found[name].shape != wanted[kind] or not groups):
                raise ValueError(f"{name} is {list(found[name].shape)}, expected {list(wanted[kind])}")
        integers = {kind: found[name].dtype for kind, name in parts.items() if kind != "scales"}
        if wrong := [f"{parts[kind]} is {dtype}" for kind, dtype in integers.items() if dtype != "I32"]:
            raise ValueError(f"{listed(wrong)}, expected I32")
        return _Matrix(parts, (rows, columns), bits, groups)

    def _ints(self, name: str) -> np.ndarray:
        info = self._checkpoint.tensors[name]
        numbers = np.empty(info.size, "<i4")
        self._checkpoint.read_into(name, 0, numbers)
        return numbers.reshape(info.shape)

    def _load(self, name: str) -> Packed:
        with self._loading:
            if name in self._packed:
                return self._packed[name]
            while len(self._packed) >= KEPT:
                self._pairs.pop(self._packed.popitem(last=False)[0], None)
            matrix = self._matrices[name]
            rows, columns = matrix.shape
            stored = self._ints(matrix.parts["qzeros"]).view(np.uint32)
            zeros = unpacked(stored, matrix.bits)
            if self._plus_one:  # wraps around within the bits, as in AutoGPTQ
                zeros = (zeros + np.uint8(1)) & np.uint8((1 << matrix.bits) - 1)
            scales = matrix.parts["scales"]
            spread = widen(self._checkpoint.read(scales), self._checkpoint.tensors[scales].dtype)
            group, length = self._groups(matrix, columns)
            self._packed[name] = Packed(
                self._ints(matrix.parts["qweight"]).view(np.uint32),
                zeros.reshape(-1)[0]
                if (zeros == zeros.reshape(-1)[0]).all()
                else np.ascontiguousarray(zeros.T, np.float32),
                np.ascontiguousarray(spread.reshape(matrix.groups, rows).T),
                matrix.bits,
                group,
                length,
            )
            return self._packed[name]

    def _groups(self, matrix: _Matrix, columns: int) -> tuple[np.ndarray | None, int]:
        """The group of each input, or None if groups are in order; and how long a group is."""
        length = -(-columns // matrix.groups)
        power = 1 << (length - 1).bit_length()  # groups have 128, 64, ... inputs; the last one may be shorter
        if -(-columns // power) == matrix.groups:
            length = power
        if (whole := self._group_size) and -(-columns // whole) == matrix.groups:
            length = whole
        in_order = np.arange(columns) // length
        if "g_idx" not in matrix.parts:
            return None, length
        group = self._ints(matrix.parts["g_idx"]).reshape(-1)
        if group.min() < 0 or group.max() >= matrix.groups:
            raise ValueError(f"{matrix.parts['g_idx']} names groups beyond the {matrix.groups} there are")
        return (None if np.array_equal(group, in_order) else group), length

    def stored(self, name: str) -> tuple[str, ...]:
        """Names in the files of what the tensor `name` is made of."""
        return tuple(self._matrices[name].parts.values()) if name in self._matrices else (name,)

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        """See `Readable`."""
        if name not in self._matrices:
            self._checkpoint.read_into(name, start, numbers)
            return
        packed = self._load(name)
        self._fill(name, start, numbers, ROWS, lambda row, stop, into: dequantise(packed, row, stop, into))

    def read_as(self, name: str, start: int, code: str, numbers: np.ndarray) -> bool:
        """As `Readable.read_as`, for 4-bit matrices as 16-bit floats."""
        if name not in self._matrices or ITEM_BYTES[code] != 2:
            return False
        packed = self._load(name)
        with self._loading:
            known, pairs = self._pairs.get(name, ("", None))
            if known != code:
                pairs = pairs_of(packed, code)
                self._pairs[name] = code, pairs
        if pairs is None:
            return False
        self._fill(
            *(name, start, numbers.view(STORAGE[code]), PAIR_ROWS),
            lambda row, stop, into: unpack_pairs(pairs, packed, row, stop, into),
        )
        return True

    def _fill(
        self, name: str, start: int, numbers: np.ndarray, rows: int, unpack: Callable[[int, int, np.ndarray], None]
    ) -> None:
        """Fill `numbers` from a matrix, from `start` on, at most `rows` rows at a time; `unpack` takes whole rows."""
        columns = self.tensors[name].shape[1]
        done, row = 0, start // columns
        while done < numbers.size:
            begin = max(0, start - row * columns)
            stop = min(self.tensors[name].shape[0], row + rows)
            left = numbers[done:]
            if not begin and left.size >= columns:
                stop = min(stop, row + left.size // columns)
                unpack(row, stop, left[: (stop - row) * columns].reshape(-1, columns))
                done += (stop - row) * columns
            else:  # a part of a row
                stop = row + 1
                block = np.empty((1, columns), numbers.dtype)
                unpack(row, stop, block)
                piece = block.reshape(-1)[begin : begin + left.size]
                left[: piece.size] = piece
                done += piece.size
            row = stop

    def copy_to(self, descriptor: int, position: int, name: str, start: int, count: int) -> bool:
        """As `Readable.copy_to`, for tensors that are not quantised."""
        if name in self._matrices:
            return False
        return self._checkpoint.copy_to(descriptor, position, name, start, count)

    def close(self) -> None:
        self._packed.clear()
        self._pairs.clear()
        self._checkpoint.close()
