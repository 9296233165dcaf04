"""Checkpoints of the port in MindFormers' own tree (research/qwenvl, up to 1.5), read as if they were ours.

Most of its names are ours. The differences:

- the vision tower's fused `attn.in_proj`, interleaved per head, is split there into `attn.dense1`, `dense2`, `dense3`:
  q, k and v of all heads;
- the resampler's `attn.wq`, `wk`, `wv` are called `attn.dense1`, `dense2`, `dense3`;
- either's output (`out_proj`, `wo`) is called `attn.projection`, its weight transposed;
- with `qkv_concat` the language model's `attention.wq`, `wk`, `wv` are one `attention.w`: rows [q; k; v];
- with `enable_emb_opt` the embedding and `lm_head` have unused rows after those of the vocabulary.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mindformers_qwenvl.weights.formats.readable import Readable, TensorInfo
from mindformers_qwenvl.weights.formats.reader import Checkpoint, weight_names
from mindformers_qwenvl.weights.shapes import listed, original_shapes, whole_number

__all__ = ["InTreeCheckpoint", "as_ours", "is_in_tree", "refuse_in_tree"]

_VISION = re.compile(r"(vision_encoder\.transformer\.resblocks\.\d+\.attn)\.(dense[123]|projection)\.(weight|bias)")
_POOL = re.compile(r"(vision_encoder\.attn_pool\.attn)\.(dense[123]|projection)\.(weight|bias)")
_CONCAT = re.compile(r"(llm_model\.transformer\.layers\.\d+\.attention)\.w\.(weight|bias)")
_PADDED = ("llm_model.transformer.wte.embedding_weight", "llm_model.lm_head.weight")
_QKV = ("dense1", "dense2", "dense3")
_OURS = ("wq", "wk", "wv")


def is_in_tree(names: Iterable[str]) -> bool:
    """Whether any of `names` is one that only the in-tree port has."""
    return any(pattern.fullmatch(name) for name in names for pattern in (_VISION, _POOL, _CONCAT))


def as_ours(checkpoint: Checkpoint, config: dict[str, Any]) -> Readable:
    """`checkpoint`, or a view of it in our names and shapes if it is one of the in-tree port.

    Args:
        config: the original config.json, which gives the vision tower's number of heads and the size of the vocabulary.

    Raises:
        ValueError: a part of a tensor is missing, or parts do not fit together.
    """
    return InTreeCheckpoint(checkpoint, config) if is_in_tree(checkpoint.tensors) else checkpoint


def refuse_in_tree(path: str | os.PathLike, key: str = "load_checkpoint") -> None:
    """Raise ValueError if `path`, which the setting `key` names, is a checkpoint of the in-tree port.

    MindFormers would load the names it knows, log the rest, and go on with random attention. A path that cannot be read
    is left to MindFormers.
    """
    try:
        names = weight_names(Path(path))
    except (OSError, ValueError):
        return
    if is_in_tree(names):
        raise ValueError(
            f"{key}: {path} is a checkpoint of the Qwen-VL that was part of MindFormers up to 1.5, with other names, "
            "such as vision_encoder.attn_pool.attn.dense1.weight. Convert it once and load the result: "
            f"`mindformers-qwenvl convert-weight --input_path {path} --config QWEN_VL_FOLDER --output_path NEW.ckpt`, "
            "where QWEN_VL_FOLDER holds the original config.json"
        )


class _Piece(NamedTuple):
    """Numbers [start, stop) of a stored tensor."""

    name: str
    start: int
    stop: int


class InTreeCheckpoint(Readable):
    """A checkpoint of the in-tree port, read as one of ours.

    A transposed weight is read whole (the largest is 67 MB in float32), everything else a range at a time.
    """

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any]):
        """Find what each of our parameters is made of; reads no numbers."""
        self.path, self.files, self.of_ranks = checkpoint.path, checkpoint.files, checkpoint.of_ranks
        self._checkpoint = checkpoint
        original_shapes(config)  # refuses a config that lacks something
        self._heads, self._vocabulary = whole_number({"heads": None, **config["visual"]}, "heads"), config["vocab_size"]
        self.tensors: dict[str, TensorInfo] = {}
        self.padding: dict[str, int] = {}
        self._pieces: dict[str, tuple[_Piece, ...]] = {}
        self._transposed: dict[str, str] = {}
        self._last: tuple[str, np.ndarray] | None = None
        self._reading = threading.Lock()
        for name, info in checkpoint.tensors.items():
            self._add(name, info)

    def _add(self, name: str, info: TensorInfo) -> None:
        if match := (_VISION.fullmatch(name) or _POOL.fullmatch(name)):
            block, part, kind = match.groups()
            in_vision = match.re is _VISION
            if part == "projection":
                ours = f"{block}.{'out_proj' if in_vision else 'wo'}.{kind}"
                if kind == "weight":
                    self._transposed[ours] = name
                    info = TensorInfo(info.dtype, info.shape[::-1])
                self._put(ours, info, [_Piece(name, 0, info.size)])
            elif not in_vision:
                self._put(f"{block}.{_OURS[_QKV.index(part)]}.{kind}", info, [_Piece(name, 0, info.size)])
            elif part == "dense1":
                self._fuse(f"{block}.in_proj.{kind}", [f"{block}.{part}.{kind}" for part in _QKV])
            elif f"{block}.dense1.{kind}" not in self._checkpoint.tensors:
                raise ValueError(f"{self.path} holds {name}, but no {block}.dense1.{kind}")
        elif match := _CONCAT.fullmatch(name):
            rows, *rest = info.shape
            if rows % 3:
                raise ValueError(
                    f"{self.path}: {name} is {list(info.shape)}, whose rows cannot be split into three equal parts"
                )
            part = TensorInfo(info.dtype, (rows // 3, *rest))
            for index, ours in enumerate(_OURS):
                pieces = [_Piece(name, index * part.size, (index + 1) * part.size)]
                self._put(f"{match[1]}.{ours}.{match[2]}", part, pieces)
        elif name in _PADDED and info.shape[0] > self._vocabulary:
            self.padding[name] = info.shape[0] - self._vocabulary
            info = TensorInfo(info.dtype, (self._vocabulary, *info.shape[1:]))
            self._put(name, info, [_Piece(name, 0, info.size)])
        else:
            self._put(name, info, [_Piece(name, 0, info.size)])

    def _fuse(self, ours: str, parts: list[str]) -> None:
        """q, k, v of all heads to (q, k, v) of each head."""
        stored = self._checkpoint.tensors
        if absent := [part for part in parts if part not in stored]:
            raise ValueError(f"{self.path} holds {parts[0]}, but no {listed(absent)}")
        infos = {stored[part] for part in parts}
        rows, *rest = stored[parts[0]].shape
        if len(infos) > 1 or rows % self._heads:
            found = ", ".join(f"{part} {stored[part].dtype} {list(stored[part].shape)}" for part in parts)
            raise ValueError(
                f"{self.path}: {found}: these three become one tensor, so their dtypes and shapes must be "
                f"equal, and their rows divisible by {self._heads} heads"
            )
        head = rows // self._heads * math.prod(rest)
        pieces = [_Piece(part, i * head, (i + 1) * head) for i in range(self._heads) for part in parts]
        self._put(ours, TensorInfo(stored[parts[0]].dtype, (3 * rows, *rest)), pieces)

    def _put(self, ours: str, info: TensorInfo, pieces: list[_Piece]) -> None:
        if ours in self.tensors:
            raise ValueError(f"{self.path} holds {ours} twice, also as {pieces[0].name}: it mixes two checkpoints")
        self.tensors[ours], self._pieces[ours] = info, tuple(pieces)

    def stored(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(piece.name for piece in self._pieces[name]))

    def read_into(self, name: str, start: int, numbers: np.ndarray) -> None:
        if name in self._transposed:
            numbers[:] = self._turned(self._transposed[name])[start : start + numbers.size]
            return
        done = 0
        for piece in self._pieces[name]:
            size = piece.stop - piece.start
            if start < size and done < numbers.size:
                count = min(size - start, numbers.size - done)
                self._checkpoint.read_into(piece.name, piece.start + start, numbers[done : done + count])
                done += count
            start = max(0, start - size)

    def _turned(self, stored: str) -> np.ndarray:
        """The stored matrix, transposed and flat. The last one is kept: its blocks are read one after another."""
        with self._reading:
            if self._last is None or self._last[0] != stored:
                self._last = None  # one at a time in memory
                matrix = self._checkpoint.read(stored).reshape(self._checkpoint.tensors[stored].shape)
                self._last = stored, matrix.T.reshape(-1)
            return self._last[1]

    def copy_to(self, descriptor: int, position: int, name: str, start: int, count: int) -> bool:
        """As `Readable.copy_to`, for tensors that are stored in our form."""
        pieces = self._pieces[name]
        if name in self._transposed or len(pieces) > 1:
            return False
        return self._checkpoint.copy_to(descriptor, position, pieces[0].name, pieces[0].start + start, count)

    def close(self) -> None:
        self._checkpoint.close()
