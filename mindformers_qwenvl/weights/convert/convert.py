"""Conversion of checkpoints, both ways, a block of numbers at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mindformers_qwenvl.config.original import read_original
from mindformers_qwenvl.files import Inputs, copy_file, read_json, remove_leftovers, replacing, write_json
from mindformers_qwenvl.text.vocabulary_file import FILE_NAME, check_file
from mindformers_qwenvl.weights.convert.destination import FILES, check_destination, check_read, check_space, locked
from mindformers_qwenvl.weights.convert.dtypes import CODES, ITEM_BYTES
from mindformers_qwenvl.weights.convert.plan import Target, make_plan
from mindformers_qwenvl.weights.convert.report import Report
from mindformers_qwenvl.weights.convert.transfer import Counts, Progress, compare, write_all, write_numbers
from mindformers_qwenvl.weights.convert.workfolder import WorkFolder, fingerprint
from mindformers_qwenvl.weights.convert.writer import Layout, ckpt_layout, safetensors_layout, shard
from mindformers_qwenvl.weights.formats.ranks import later_files
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.in_tree import InTreeCheckpoint
from mindformers_qwenvl.weights.names import layout
from mindformers_qwenvl.weights.opening import Overlay, opened
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["DEFAULT_SHARD", "Progress", "Report", "convert"]

COMPANIONS = ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken")
DEFAULT_SHARD = 5_000_000_000


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
            may also come from the port in MindFormers' own tree, see in_tree.py.
        output_path: a `.safetensors` or `.ckpt` file, or a folder for shards of `max_shard_size` bytes.
        dtype: `fp16`, `bf16`, `fp32`; None keeps each tensor's own.
        verify: read the result back and compare it with the source.
        config: the original config.json or its folder, if it is not beside the input.
        strategy: for `rank_*` folders, how their weights were cut: see `Checkpoint`.
        overlay: gives a view of the checkpoint to be converted instead, such as one with an adapter merged into it.
        progress: called once with the bytes to be written; the function it returns is called as they are written.

    Raises:
        ValueError, FileNotFoundError: see `Checkpoint`, `make_plan` and `WorkFolder`; or the output
            would overwrite the input, has an unsupported suffix, or is being written by another conversion; or a file
            of the input changed meanwhile, in which case the output does not get its name.
        OSError: the result does not fit the disk.
    """
    started = time.perf_counter()
    source, output = Path(input_path), Path(output_path)
    if dtype is not None and dtype not in CODES:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(CODES)}")
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; expected a checkpoint folder or file")
    check_destination(source, output, reverse)
    inputs = Inputs(*_files(source))  # as they are before their headers are read
    settings = read_original(config if config is not None else source)
    settings_from = Path(config) if config is not None else source
    if output.suffix not in FILES:
        _check_vocabulary(settings_from, settings)
    with opened(source, settings, strategy) as base:
        in_tree = isinstance(base, InTreeCheckpoint)
        checkpoint = base if overlay is None else overlay(base, settings, CODES.get(dtype))
        found, wanted = layout(checkpoint.tensors, str(source)), "original" if reverse else "ours"
        if found == wanted and isinstance(checkpoint, Checkpoint) and not checkpoint.of_ranks:
            way = "it needs no --reverse" if reverse else "give --reverse to convert it back"
            raise ValueError(f"{source} is in {'the original' if reverse else 'our'} layout already: {way}")
        targets, dropped = make_plan(checkpoint, settings, source=found, result=wanted, dtype=CODES.get(dtype))
        check_read(output, checkpoint.files)
        inputs = inputs.only(*checkpoint.files)
        report = Report(source, output, dropped=dropped, files_read=len(checkpoint.files))
        report.in_tree, report.padding = in_tree, dict(checkpoint.padding) if in_tree else {}
        if checkpoint.of_ranks:
            report.step_file, report.later = checkpoint.files[0], later_files(source)
        _account(report, checkpoint, targets)
        tick = progress(report.bytes_written) if progress else lambda name, count: None
        with locked(output):
            if output.suffix in FILES:
                report.count(_write_file(output, checkpoint, targets, reverse, tick, inputs))
                report.files_written = [output]
            else:
                _write_folder(output, checkpoint, targets, report, settings_from, reverse, max_shard_size, tick, inputs)
            if verify:
                _verify(checkpoint, targets, output)
                report.verified = True
    report.seconds = time.perf_counter() - started
    return report


def _files(source: Path) -> list[Path]:
    """The files that a checkpoint at `source` may be read from."""
    return [source] if source.is_file() else [*source.glob("*"), *source.glob("rank_*/*")]


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
    path: Path, checkpoint: Readable, targets: Sequence[Target], reverse: bool, tick: Progress, inputs: Inputs
) -> Counts:
    entries = [target.entry for target in targets]
    plan = ckpt_layout(entries) if path.suffix == ".ckpt" else safetensors_layout(entries, _form(reverse))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)  # of a conversion that was killed: they may be gigabytes
    check_space(path, plan.size)
    with replacing(path, buffering=0) as file:
        counts = _fill(file, plan, checkpoint, targets, tick)
        inputs.check()
    return counts


def _form(reverse: bool) -> str:
    return "pt" if reverse else "ms"


def _fill(file: IO[bytes], plan: Layout, checkpoint: Readable, targets: Sequence[Target], tick: Progress) -> Counts:
    """Write the open file as planned; returns what was counted, see `write_numbers`."""
    for position, header in plan.headers:
        write_all(file.fileno(), header, position)
    counts = write_numbers(file.fileno(), checkpoint, targets, plan.ranges, tick)
    size = os.fstat(file.fileno()).st_size
    if size != plan.size:
        raise AssertionError(f"wrote a file of {size:,} bytes, planned {plan.size:,}")
    return counts


def _write_folder(
    output: Path,
    checkpoint: Readable,
    targets: Sequence[Target],
    report: Report,
    settings_from: Path,
    reverse: bool,
    max_shard_size: int,
    tick: Progress,
    inputs: Inputs,
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
            report.count(kept[name])
            for entry in entries:
                tick(entry.name, entry.nbytes)
            continue
        plan = safetensors_layout(entries, _form(reverse))
        parts = [by_name[entry.name] for entry in entries]
        report.count(
            folder.write(name, lambda file, plan=plan, parts=parts: _fill(file, plan, checkpoint, parts, tick))
        )
    inputs.check()
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
            copy_file(file, output / name)
    _forget_quantisation(output / "config.json")


def _check_vocabulary(source: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError if the vocabulary to be copied belongs to another model than config.json."""
    file = (source if source.is_dir() else source.parent) / FILE_NAME
    if file.is_file():
        check_file(file, settings["visual"].get("image_start_id"), f"the model of {source}")


def _forget_quantisation(path: Path) -> None:
    """What is written is plain numbers: config.json must not say that it is quantised."""
    settings = read_json(path) if path.is_file() else {}
    if "quantization_config" in settings:
        del settings["quantization_config"]
        write_json(path, settings)


def _verify(checkpoint: Readable, targets: Sequence[Target], output: Path) -> None:
    with Checkpoint(output) as written:
        if written.tensors.keys() != {target.entry.name for target in targets}:
            raise ValueError(f"{output} failed verification: it does not hold the tensors it should")
        wrong = compare(checkpoint, targets, written, lambda name, count: None)
    if wrong:
        raise ValueError(f"{output} failed verification: it differs from its source in: {listed(wrong)}")
