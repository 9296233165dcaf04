"""Conversion of checkpoints, both ways, a block of numbers at a time; and loading an original one as it is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_qwenvl.weights.dtypes import CODES, ITEM_BYTES, cast, widen
from mindformers_qwenvl.weights.names import is_training_state, layout
from mindformers_qwenvl.weights.plan import Target, make_plan, read_config, target_blocks
from mindformers_qwenvl.weights.reader import Checkpoint
from mindformers_qwenvl.weights.shapes import check_shapes, listed, our_shapes
from mindformers_qwenvl.weights.writer import Entry, write_ckpt, write_safetensors, write_sharded

__all__ = ["Report", "convert", "load_original"]

COMPANIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken")
DEFAULT_SHARD = 5_000_000_000

Progress = Callable[[str, int], None]
"""Called with a tensor's name and the bytes written since the last call."""


@dataclass
class Report:
    """What a conversion read, wrote and dropped."""

    source: Path
    output: Path
    tensors_read: int = 0
    bytes_read: int = 0
    files_read: int = 0
    tensors_written: int = 0
    bytes_written: int = 0
    files_written: list[Path] = field(default_factory=list)
    dtypes: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    overflow: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    verified: bool = False

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {code}" for code, count in sorted(self.dtypes.items()))
        lines = [
            f"read     {self.tensors_read} tensors, {self.bytes_read:,} bytes, {self.files_read} files: {self.source}",
            f"wrote    {self.tensors_written} tensors ({kinds}), {self.bytes_written:,} bytes, "
            f"{len(self.files_written)} files: {self.output}",
            f"dropped  {len(self.dropped)} tensors" + (f": {listed(self.dropped, limit=20)}" if self.dropped else ""),
        ]
        if self.overflow:
            worst = [f"{name} ({count:,})" for name, count in self.overflow.items()]
            total = sum(self.overflow.values())
            lines.append(
                f"WARNING  {total:,} values are too large for the dtype asked for and became infinite (bf16 or fp32 "
                f"holds them): {listed(worst, limit=20)}"
            )
        if self.verified:
            lines.append("verified every byte written against the source")
        rate = self.bytes_written / max(self.seconds, 1e-9) / 1e6
        return "\n".join([*lines, f"took     {self.seconds:.1f} s, {rate:,.0f} MB/s"])


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The items, the next one being prepared in a thread while the caller writes the last: a cast overlaps the disk."""
    with ThreadPoolExecutor(1) as worker:
        upcoming = worker.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = worker.submit(next, items, None)
            yield item


def convert(
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    *,
    dtype: str | None = None,
    reverse: bool = False,
    verify: bool = False,
    max_shard_size: int = DEFAULT_SHARD,
    config: str | os.PathLike | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> Report:
    """Convert an original Qwen-VL checkpoint to this network's names (or back, with `reverse`).

    Args:
        input_path: folder or file to read: safetensors, PyTorch, or MindSpore .ckpt.
        output_path: a `.safetensors` or `.ckpt` file, or a folder for shards of `max_shard_size` bytes.
        dtype: `fp16`, `bf16`, `fp32`; None keeps each tensor's own.
        verify: read the result back and compare it with the source.
        config: the original config.json or its folder, where it does not lie beside the input.
        progress: called once with the bytes to be written; what it returns is called while they are.

    Raises:
        ValueError, FileNotFoundError, ImportError: see `Checkpoint`, `make_plan` and `write_sharded`; or the output
            would overwrite the input, or has an unsupported suffix.
        OSError: the result does not fit the disk.
    """
    started = time.perf_counter()
    source, output = Path(input_path), Path(output_path)
    if dtype is not None and dtype not in CODES:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(CODES)}")
    _check_output(source, output, reverse)
    settings = read_config(config if config is not None else source)
    with Checkpoint(source) as checkpoint:
        if layout(checkpoint.tensors, str(source)) == ("original" if reverse else "ours"):
            way = "it needs no --reverse" if reverse else "give --reverse to convert it back"
            raise ValueError(f"{source} is in {'the original' if reverse else 'our'} layout already: {way}")
        targets, dropped = make_plan(checkpoint, settings, reverse=reverse, dtype=CODES.get(dtype))
        report = Report(source, output, dropped=dropped, files_read=len(checkpoint.files))
        _account(report, checkpoint, targets)
        _check_space(output, report.bytes_written)
        tick = progress(report.bytes_written) if progress else lambda name, count: None
        report.files_written = _write(checkpoint, targets, output, report, tick, reverse, max_shard_size)
        if output.suffix not in (".safetensors", ".ckpt"):
            _copy_companions(Path(config) if config is not None else source, output)
        if verify:
            _verify(checkpoint, targets, output)
            report.verified = True
    report.seconds = time.perf_counter() - started
    return report


def _check_output(source: Path, output: Path, reverse: bool) -> None:
    if output.suffix in (".bin", ".pt", ".pth", ".npz"):
        raise ValueError(f"{output}: expected OUT.safetensors, OUT.ckpt or a folder")
    if reverse and output.suffix == ".ckpt":
        raise ValueError(f"{output}: an original checkpoint is a folder or a .safetensors file, not a .ckpt")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input: give another output path")
    if output.is_file() and source.is_dir() and output.resolve().parent == source.resolve():
        raise ValueError(f"{output} is a file of the input: give another output path")


def _check_space(output: Path, needed: int) -> None:
    place = next(parent for parent in (output.resolve(), *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(f"{output} needs {needed:,} bytes, the disk has {free:,} free")


def _account(report: Report, checkpoint: Checkpoint, targets: list[Target]) -> None:
    used = {name for target in targets for name, _, _ in target.pieces}
    report.tensors_read = len(used)
    report.bytes_read = sum(checkpoint.tensors[name].size * ITEM_BYTES[checkpoint.tensors[name].dtype] for name in used)
    report.tensors_written = len(targets)
    report.bytes_written = sum(target.entry.nbytes for target in targets)
    for target in targets:
        report.dtypes[target.entry.dtype] = report.dtypes.get(target.entry.dtype, 0) + 1


def _write(
    checkpoint: Checkpoint,
    targets: list[Target],
    output: Path,
    report: Report,
    tick: Progress,
    reverse: bool,
    max_shard_size: int,
) -> list[Path]:
    by_name = {target.entry.name: target for target in targets}

    def blocks(entry: Entry) -> Iterator[np.ndarray]:
        target = by_name[entry.name]
        numbers = target_blocks(checkpoint, target)
        plain = all(checkpoint.tensors[name].dtype == entry.dtype for name, _, _ in target.pieces)
        for block, overflowed in numbers if plain else _ahead(numbers):
            if overflowed:
                report.overflow[entry.name] = report.overflow.get(entry.name, 0) + overflowed
            yield block
            tick(entry.name, block.nbytes)

    entries = [target.entry for target in targets]
    form = "pt" if reverse else "ms"
    if output.suffix == ".ckpt":
        write_ckpt(output, entries, blocks)
        return [output]
    if output.suffix == ".safetensors":
        write_safetensors(output, entries, blocks, form)
        return [output]
    return write_sharded(output, entries, blocks, form, max_shard_size)


def _copy_companions(source: Path, output: Path) -> None:
    """Config, generation config and vocabulary, so that the result is a directory that can be loaded."""
    folder = source if source.is_dir() else source.parent
    files = {name: folder / name for name in COMPANIONS}
    if source.suffix == ".json":
        files["config.json"] = source
    for name, file in files.items():
        if file.is_file():
            shutil.copyfile(file, output / f"{name}.tmp")
            (output / f"{name}.tmp").replace(output / name)


def _verify(checkpoint: Checkpoint, targets: list[Target], output: Path) -> None:
    wrong = []
    with Checkpoint(output) as written:
        if written.tensors.keys() != {target.entry.name for target in targets}:
            raise ValueError(f"{output} was verified and does not hold the tensors it should")
        for target in targets:
            position = 0
            for block, _ in target_blocks(checkpoint, target):
                back = written.read(target.entry.name, position, position + block.size)
                position += block.size
                if back.tobytes() != block.tobytes():
                    wrong.append(target.entry.name)
                    break
    if wrong:
        raise ValueError(f"{output} was verified and differs from its source in: {listed(wrong)}")


def load_original(directory: str | os.PathLike, dtype: str = "fp32") -> Iterator[tuple[str, np.ndarray]]:
    """The parameters of this network from an original HuggingFace directory, one at a time, without converting files.

    A directory with our own names (written by `convert`) is read as well.

    Args:
        directory: config.json and the shards.
        dtype: `fp32` or `fp16`: what the arrays come in. BF16 weights widen to fp32 exactly, so that
            `Tensor(array, mindspore.bfloat16)` restores them.

    Returns:
        An iterator of (our parameter name, array of its shape). Faults are raised before it is returned.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `convert`.
    """
    if dtype not in ("fp32", "fp16"):
        raise ValueError(f"dtype {dtype!r}: expected fp32 or fp16 (numpy has no bfloat16: take fp32 and cast it)")
    settings = read_config(directory)
    checkpoint = Checkpoint(directory)
    if layout(checkpoint.tensors, str(directory)) == "original":
        targets, _ = make_plan(checkpoint, settings, reverse=False, dtype=None)
    else:
        found = {name: info for name, info in checkpoint.tensors.items() if not is_training_state(name)}
        shapes = {name: info.shape for name, info in found.items()}
        check_shapes(shapes, our_shapes(settings), str(directory))
        targets = [Target(Entry(name, info.dtype, info.shape), ((name, 0, info.size),)) for name, info in found.items()]

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        with checkpoint:
            for target in targets:
                (piece,) = target.pieces
                kind = checkpoint.tensors[piece[0]].dtype
                flat = checkpoint.read(*piece)
                array = widen(flat, kind) if dtype == "fp32" else cast(flat, kind, "F16")[0]
                yield target.entry.name, array.reshape(target.entry.shape)

    return arrays()
