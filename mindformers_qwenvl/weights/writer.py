"""Streaming writers: safetensors (one file, or shards with an index) and MindSpore's .ckpt.

Tensors arrive as blocks of flat numbers, so that a file of any size is written with the memory of one block. Every file
is written under a temporary name and renamed when it is complete: a name without `.tmp` is never a half-written file.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers_qwenvl.weights.dtypes import ITEM_BYTES, widen
from mindformers_qwenvl.weights.reader import SAFETENSORS_INDEX

__all__ = ["Entry", "parse_size", "write_ckpt", "write_safetensors", "write_sharded"]

MINDSPORE_INDEX = "param_name_map.json"  # what MindSpore reads where HuggingFace reads model.safetensors.index.json
RECORD = "conversion.json"  # which files of a folder are ours, so that a rerun replaces those and never a user's own


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: name, dtype code, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * ITEM_BYTES[self.dtype]


Blocks = Callable[[Entry], Iterable[np.ndarray]]
"""Gives the numbers of an entry: consecutive one-dimensional blocks in the storage type of its dtype."""


def write_safetensors(path: Path, entries: list[Entry], blocks: Blocks, form: str) -> None:
    """Write one .safetensors file, tensor by tensor. `form` is its metadata field `format`: `pt` or `ms`."""
    header: dict[str, object] = {"__metadata__": {"format": form}}
    offset = 0
    for entry in entries:
        span = [offset, offset + entry.nbytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": span}
        offset = span[1]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the numbers to start at a multiple of eight
    with _replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries:
            for block in blocks(entry):
                _write_all(file, block)
        if file.tell() != 8 + len(encoded) + offset:
            raise AssertionError(f"{path}: wrote {file.tell()} bytes, planned {8 + len(encoded) + offset}")


def write_sharded(directory: Path, entries: list[Entry], blocks: Blocks, form: str, max_shard_size: int) -> list[Path]:
    """Write shards `model-00001-of-0000N.safetensors` and their index (for ours, MindSpore's too); returns the shards.

    A model that fits in one shard becomes `model.safetensors` without an index. What an earlier run wrote into
    `directory` is removed first, the index before the shards: an interrupted run never leaves an index over a mixture.

    Raises:
        ValueError: `directory` holds weight files of another origin.
    """
    directory.mkdir(parents=True, exist_ok=True)
    groups: list[list[Entry]] = []
    filled = max_shard_size
    for entry in entries:
        if filled + entry.nbytes > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.nbytes
    total = len(groups)
    names = (
        [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
        if total > 1
        else ["model.safetensors"]
    )
    _claim(directory, names)
    for name, group in zip(names, groups, strict=True):
        write_safetensors(directory / name, group, blocks, form)
    if total > 1:
        weight_map = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
        size = sum(entry.nbytes for entry in entries)
        _write_json(directory / SAFETENSORS_INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        if form == "ms":
            _write_json(directory / MINDSPORE_INDEX, weight_map)
    return [directory / name for name in names]


def write_ckpt(path: Path, entries: list[Entry], blocks: Blocks) -> None:
    """Write MindSpore's .ckpt with MindSpore's own `save_checkpoint`, one tensor in memory at a time.

    A .ckpt is a protobuf message with one repeated field, and such messages are joined by joining their bytes: each
    tensor is saved alone and appended.
    """
    import mindspore

    kinds = {"F16": mindspore.float16, "BF16": mindspore.bfloat16, "F32": mindspore.float32}
    parts = path.with_name(f"{path.name}.parts.tmp")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    piece = parts / "tensor.ckpt"
    try:
        with _replacing(path) as temporary, temporary.open("wb") as file:
            for entry in entries:
                flat = np.concatenate(list(blocks(entry)))
                if entry.dtype == "BF16":
                    flat = widen(flat, "BF16")
                tensor = mindspore.Tensor(flat.reshape(entry.shape), kinds[entry.dtype])
                mindspore.save_checkpoint([{"name": entry.name, "data": tensor}], str(piece))
                with piece.open("rb") as saved:
                    shutil.copyfileobj(saved, file, 1 << 22)
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def parse_size(text: str) -> int:
    """`5GB`, `500MB`, `2GiB` or a plain number -> bytes.

    Raises:
        ValueError: anything else, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        base = 1024 if match[3] else 1000
        size = int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    if size <= 0:
        raise ValueError(f"a shard size of {text!r}: expected something like 5GB, 500MB or 2GiB")
    return size


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` when the block succeeds, removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(file, block: np.ndarray) -> None:
    view = memoryview(np.ascontiguousarray(block)).cast("B")
    while view:  # an unbuffered write may take less than it is given: Linux stops at 2 GiB
        view = view[file.write(view) :]


def _write_json(path: Path, content: dict) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _claim(directory: Path, names: list[str]) -> None:
    """Remove what an earlier, perhaps interrupted, run wrote here, and record what this one will write.

    Raises:
        ValueError: the folder holds weights that no run of ours recorded.
    """
    record = directory / RECORD
    old = set(json.loads(record.read_text(encoding="utf-8"))["files"]) if record.is_file() else set()
    weights = {
        file.name for file in directory.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    }
    if foreign := sorted(weights - old):
        raise ValueError(f"{directory} already holds weights ({', '.join(foreign[:3])}): give an empty folder")
    for name in (SAFETENSORS_INDEX, MINDSPORE_INDEX, *sorted(old)):
        (directory / Path(name).name).unlink(missing_ok=True)
        (directory / f"{Path(name).name}.tmp").unlink(missing_ok=True)
    _write_json(record, {"written_by": "mindformers-qwenvl convert-weight", "files": names})
