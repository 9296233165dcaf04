"""Conversion of checkpoints, both ways, a block of numbers at a time; and loading an original one as it is."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_qwenvl.weights.convert.destination import FILES, check_output, check_read, check_space, locked
from mindformers_qwenvl.weights.convert.dtypes import CODES, ITEM_BYTES, cast, widen
from mindformers_qwenvl.weights.convert.plan import Target, make_plan, read_config
from mindformers_qwenvl.weights.convert.report import Report
from mindformers_qwenvl.weights.convert.transfer import Progress, compare, write_all, write_numbers
from mindformers_qwenvl.weights.convert.workfolder import WorkFolder, fingerprint
from mindformers_qwenvl.weights.convert.writer import (
    Layout,
    ckpt_layout,
    replacing,
    safetensors_layout,
    shard,
    write_json,
)
from mindformers_qwenvl.weights.formats.gptq import as_numbers
from mindformers_qwenvl.weights.formats.ranks import later_files
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.in_tree import InTreeCheckpoint, as_ours
from mindformers_qwenvl.weights.names import layout
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["DEFAULT_SHARD", "Progress", "Report", "convert", "load_original"]

COMPANIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken")
DEFAULT_SHARD = 5_000_000_000

Overlay = Callable[[Readable, dict[str, Any], str | None], Readable]
"""(checkpoint, config.json, dtype code of the result or None) -> what is read instead."""


def convert(
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    *,
    dtype: str | None = None,
    reverse: bool = False,
    verify: bool = False,
    max_shard_size: int = DEFAULT_SHARD,
    config: str | os.PathLike | None = None,
    strategy: str | os.PathLike | None = None,
    overlay: Overlay | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> Report:
    """Convert an original Qwen-VL checkpoint to this network's names (or back, with `reverse`).

    Args:
        input_path: folder or file to read: safetensors, PyTorch, or MindSpore .ckpt; or the `rank_*` folders of a
            distributed training, which become one checkpoint, of our layout or with `reverse` of the original. Either
            may also be of the port that was in MindFormers' tree, see in_tree.py.
        output_path: a `.safetensors` or `.ckpt` file, or a folder for shards of `max_shard_size` bytes.
        dtype: `fp16`, `bf16`, `fp32`; None keeps each tensor's own.
        verify: read the result back and compare it with the source.
        config: the original config.json or its folder, where it does not lie beside the input.
        strategy: for `rank_*` folders, how their weights were cut: see `Checkpoint`.
        overlay: gives a view of the checkpoint to be converted instead, such as one with an adapter merged into it.
        progress: called once with the bytes to be written; what it returns is called while they are.

    Raises:
        ValueError, FileNotFoundError: see `Checkpoint`, `make_plan` and `WorkFolder`; or the output
            would overwrite the input, has an unsupported suffix, or is being written by another conversion.
        OSError: the result does not fit the disk.
    """
    started = time.perf_counter()
    source, output = Path(input_path), Path(output_path)
    if dtype is not None and dtype not in CODES:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(CODES)}")
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected a checkpoint folder or file")
    check_output(source, output, reverse)
    settings = read_config(config if config is not None else source)
    with opened(source, settings, strategy) as base:
        in_tree = isinstance(base, InTreeCheckpoint)
        checkpoint = base if overlay is None else overlay(base, settings, CODES.get(dtype))
        found, wanted = layout(checkpoint.tensors, str(source)), "original" if reverse else "ours"
        if found == wanted and isinstance(checkpoint, Checkpoint) and not checkpoint.of_ranks:
            way = "it needs no --reverse" if reverse else "give --reverse to convert it back"
            raise ValueError(f"{source} is in {'the original' if reverse else 'our'} layout already: {way}")
        targets, dropped = make_plan(checkpoint, settings, source=found, result=wanted, dtype=CODES.get(dtype))
        check_read(output, checkpoint.files)
        report = Report(source, output, dropped=dropped, files_read=len(checkpoint.files))
        report.in_tree, report.padding = in_tree, dict(checkpoint.padding) if in_tree else {}
        if checkpoint.of_ranks:
            report.step_file, report.later = checkpoint.files[0], later_files(source)
        _account(report, checkpoint, targets)
        tick = progress(report.bytes_written) if progress else lambda name, count: None
        with locked(output):
            if output.suffix in FILES:
                report.overflow = _write_file(output, checkpoint, targets, reverse, tick)
                report.files_written = [output]
            else:
                settings_from = Path(config) if config is not None else source
                _write_folder(output, checkpoint, targets, report, settings_from, reverse, max_shard_size, tick)
            if verify:
                _verify(checkpoint, targets, output)
                report.verified = True
    report.seconds = time.perf_counter() - started
    return report


def opened(path: Path, config: dict[str, Any], strategy: str | os.PathLike | None = None) -> Readable:
    """The checkpoint at `path`, of whatever kind, as one of the original's names or ours with plain numbers."""
    checkpoint = Checkpoint(path, strategy)
    try:
        return as_ours(as_numbers(checkpoint, config), config)
    except BaseException:
        checkpoint.close()
        raise


def _account(report: Report, checkpoint: Readable, targets: list[Target]) -> None:
    used = {name for target in targets for name, _, _ in target.pieces}
    report.tensors_read = len({stored for name in used for stored in checkpoint.stored(name)})
    report.bytes_read = sum(checkpoint.tensors[name].size * ITEM_BYTES[checkpoint.tensors[name].dtype] for name in used)
    report.tensors_written = len(targets)
    report.dropped = [*report.dropped, *getattr(checkpoint, "dropped", ())]
    report.bytes_written = sum(target.entry.nbytes for target in targets)
    for target in targets:
        report.dtypes[target.entry.dtype] = report.dtypes.get(target.entry.dtype, 0) + 1


def _write_file(
    path: Path, checkpoint: Readable, targets: Sequence[Target], reverse: bool, tick: Progress
) -> dict[str, int]:
    entries = [target.entry for target in targets]
    with replacing(path) as temporary:
        check_space(path, sum(entry.nbytes for entry in entries), left_over=[temporary])
        plan = ckpt_layout(entries) if path.suffix == ".ckpt" else safetensors_layout(entries, _form(reverse))
        return _fill(temporary, plan, checkpoint, targets, tick)


def _form(reverse: bool) -> str:
    return "pt" if reverse else "ms"


def _fill(path: Path, plan: Layout, checkpoint: Readable, targets: Sequence[Target], tick: Progress) -> dict[str, int]:
    """Write the file `path` as planned; returns the overflowed values by tensor."""
    with path.open("wb", buffering=0) as file:
        for position, header in plan.headers:
            write_all(file.fileno(), header, position)
        overflow = write_numbers(file.fileno(), checkpoint, targets, plan.ranges, tick)
        size = os.fstat(file.fileno()).st_size
    if size != plan.size:
        raise AssertionError(f"{path}: wrote {size:,} bytes, planned {plan.size:,}")
    return overflow


def _write_folder(
    output: Path,
    checkpoint: Readable,
    targets: Sequence[Target],
    report: Report,
    settings_from: Path,
    reverse: bool,
    max_shard_size: int,
    tick: Progress,
) -> None:
    shards = shard([target.entry for target in targets], max_shard_size)
    by_name = {target.entry.name: target for target in targets}
    result = {name: [(entry.name, entry.dtype, entry.shape) for entry in entries] for name, entries in shards.items()}
    folder = WorkFolder(output, fingerprint(checkpoint.files, result))
    kept = folder.kept()
    report.kept = [name for name in shards if name in kept]
    needed = sum(entry.nbytes for name in shards if name not in kept for entry in shards[name])
    check_space(output, needed, left_over=folder.left_over())
    for name, entries in shards.items():
        if name in kept:
            report.overflow |= kept[name]
            for entry in entries:
                tick(entry.name, entry.nbytes)
            continue
        plan = safetensors_layout(entries, _form(reverse))
        parts = [by_name[entry.name] for entry in entries]
        report.overflow |= folder.write(
            name, lambda path, plan=plan, parts=parts: _fill(path, plan, checkpoint, parts, tick)
        )
    _copy_companions(settings_from, output)
    weight_map = {entry.name: name for name, entries in shards.items() for entry in entries}
    report.files_written = folder.publish(weight_map, report.bytes_written, _form(reverse))


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
    _forget_quantisation(output / "config.json")


def _forget_quantisation(path: Path) -> None:
    """What is written is plain numbers: config.json must not say that it is quantised."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "quantization_config" in settings:
        del settings["quantization_config"]
        write_json(path, settings)


def _verify(checkpoint: Readable, targets: Sequence[Target], output: Path) -> None:
    with Checkpoint(output) as written:
        if written.tensors.keys() != {target.entry.name for target in targets}:
            raise ValueError(f"{output} was verified and does not hold the tensors it should")
        wrong = compare(checkpoint, targets, written, lambda name, count: None)
    if wrong:
        raise ValueError(f"{output} was verified and differs from its source in: {listed(wrong)}")


def load_original(
    directory: str | os.PathLike, dtype: str = "fp32", overlay: Overlay | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters of this network from an original HuggingFace directory, one at a time, without converting files.

    A directory with our own names (written by `convert`) is read as well.

    Args:
        directory: config.json and the shards.
        overlay: as for `convert`.
        dtype: `fp32` or `fp16`: what the arrays come in. BF16 weights widen to fp32 exactly, so that
            `Tensor(array, mindspore.bfloat16)` restores them.

    Returns:
        An iterator of (our parameter name, array of its shape). Faults are raised before it is returned.

    Raises:
        ValueError, FileNotFoundError: as `convert`.
    """
    if dtype not in ("fp32", "fp16"):
        raise ValueError(f"dtype {dtype!r}: expected fp32 or fp16 (numpy has no bfloat16: take fp32 and cast it)")
    settings = read_config(directory)
    checkpoint = opened(Path(directory), settings)
    if overlay is not None:
        checkpoint = overlay(checkpoint, settings, CODES[dtype])
    found = layout(checkpoint.tensors, str(directory))
    targets, _ = make_plan(checkpoint, settings, source=found, result="ours", dtype=None)

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        with checkpoint:
            for target in targets:
                (piece,) = target.pieces
                kind = checkpoint.tensors[piece[0]].dtype
                flat = checkpoint.read(*piece)
                array = widen(flat, kind) if dtype == "fp32" else cast(flat, kind, "F16")[0]
                yield target.entry.name, array.reshape(target.entry.shape)

    return arrays()
