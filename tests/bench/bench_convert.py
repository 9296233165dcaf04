"""Conversion of weights: memory at full size, and speed beside that of a plain file copy.

    python -m tests.bench.bench_convert [--folder FOLDER] [--rounds 5] [--no-memory | --no-speed] [--small]

Memory: a synthetic checkpoint with all shapes of the published 9.6B model, its numbers holes in sparse files, is
converted by a process of its own: safetensors and PyTorch shards, with a cast and without, to shards and to one .ckpt,
and back. Limit: 1.5 times the largest tensor (as it is read) + 600 MB, interpreter and all. Shards of the result are
emptied as soon as they are complete, unless --keep is given; a .ckpt needs 20 GB of disk for a while.

Speed: a checkpoint of random numbers, 1 GB as float32, with the published widths and fewer layers and words. Conversion
and `shutil.copyfile` of the same input files run in turn; the medians of the ratios count. A cast reads and writes
different amounts: its rate is that of the mean of both. Limits: 70% of the copy without a cast, 40% with one. A cast
uses two processors where a copy uses one; the rate per second of processor time stands beside, for a machine that is
busy with something else.

Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import ITEM_BYTES, STORAGE, cast
from mindformers_qwenvl.weights.convert.writer import Entry, safetensors_layout, shard
from mindformers_qwenvl.weights.shapes import original_shapes, our_shapes
from tests.support.torch_files import TorchTensor, write_torch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "golden" / "qwen-vl-9.6b" / "config.json"
SAME, CAST = 0.7, 0.4
SHARD = 2_000_000_000

MEMORY = """
import json, sys, time
from pathlib import Path
task = json.loads(sys.argv[1])
from mindformers_qwenvl.cli import main
if task.pop("empty"):
    from mindformers_qwenvl.weights.convert.workfolder import WorkFolder
    write = WorkFolder.write
    def write_and_empty(self, name, *rest):
        overflow = write(self, name, *rest)
        (self._work / name).write_bytes(b"")
        return overflow
    WorkFolder.write = write_and_empty
begin = time.perf_counter()
status = main(["convert-weight", *task["words"]])
seconds = time.perf_counter() - begin
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
heavy = sorted({"mindspore", "mindformers", "torch"} & set(sys.modules))
print("RESULT", json.dumps([status, int(peak) * 1024, seconds, heavy]))
"""


def write_sparse(folder: Path, shapes: dict, dtype: str, form: str) -> None:
    """A checkpoint of zeros in shards of 2 GB that take no disk."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(CONFIG.read_bytes())
    entries = [Entry(name, dtype, shape) for name, shape in shapes.items()]
    for name, part in shard(entries, SHARD).items():
        if form == "pytorch":
            tensors = {entry.name: TorchTensor(dtype, entry.shape) for entry in part}
            write_torch(folder / name.replace("safetensors", "bin"), tensors)
            continue
        layout = safetensors_layout(part, "pt")
        with (folder / name).open("wb") as file:
            file.write(layout.headers[0][1])
            file.truncate(layout.size)


def memory(folder: Path, keep: bool) -> bool:
    """Convert at full size, each way in a process of its own; whether all kept to the limit."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    original, ours = original_shapes(config), our_shapes(config)
    print(f"full size: {sum(map(math.prod, original.values())):,} numbers in {len(original)} tensors")
    within = True
    for dtype, form, options in (
        ("BF16", "safetensors", ["--output_path", "out"]),
        ("BF16", "pytorch", ["--output_path", "out", "--dtype", "fp16"]),
        ("F32", "safetensors", ["--output_path", "out", "--dtype", "bf16"]),
        ("BF16", "ours", ["--output_path", "out", "--reverse"]),
        ("BF16", "pytorch", ["--output_path", "out.ckpt"]),
    ):
        source = folder / "source"
        write_sparse(source, ours if form == "ours" else original, dtype, form)
        task = {"words": ["--input_path", str(source), "--max_shard_size", "2GB", *options], "empty": not keep}
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, json.dumps(task)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not results:
            raise RuntimeError(done.stdout + done.stderr)
        status, peak, seconds, heavy = json.loads(results[0].removeprefix("RESULT "))
        largest = max(math.prod(shape) for shape in original.values()) * ITEM_BYTES[dtype]
        limit = 1.5 * largest + 600e6
        within = within and not status and peak <= limit
        kind = f"{form} {dtype} -> {' '.join(options[1:])}"
        print(f"{kind}: peak {peak / 1e6:.0f} MB, limit {limit / 1e6:,.0f} MB; {seconds:.0f} s; exit code {status}")
        print(f"  imported of MindSpore, MindFormers, PyTorch: {', '.join(heavy) or 'none'}", flush=True)
        for path in (source, folder / "out"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / "out.ckpt").unlink(missing_ok=True)
    return within


def small_config(scale: float) -> dict:
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": 1, "vocab_size": int(5000 * scale)}
    config["visual"] |= {"layers": 1}
    return config


def write_random(folder: Path, config: dict, dtype: str, form: str) -> None:
    """Numbers of the size of weights; none that float16 could not hold."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    noise = np.random.default_rng(0).standard_normal(1 << 24, np.float32) * np.float32(0.02)
    noise = cast(noise, "F32", dtype)[0]
    shapes = original_shapes(config)
    if form == "pytorch":
        tensors = {
            name: TorchTensor(dtype, shape, np.resize(noise, math.prod(shape)).astype(STORAGE[dtype], copy=False))
            for name, shape in shapes.items()
        }
        write_torch(folder / "pytorch_model.bin", tensors)
        return
    layout = safetensors_layout([Entry(name, dtype, shape) for name, shape in shapes.items()], "pt")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(layout.headers[0][1])
        for shape in shapes.values():
            file.write(np.resize(noise, math.prod(shape)).tobytes())


def speed(folder: Path, rounds: int, small: bool) -> bool:
    """Conversion against a copy of its input, in turn; whether all reach the limits."""
    config, within = small_config(0.02 if small else 1.0), True
    for form, source_dtype, dtype, name in (
        ("safetensors", "BF16", "bf16", "out"),
        ("safetensors", "F32", "fp32", "out"),
        ("pytorch", "BF16", "bf16", "out"),
        ("safetensors", "BF16", "bf16", "out.ckpt"),
        ("safetensors", "F32", "fp16", "out"),
        ("safetensors", "F32", "bf16", "out"),
        ("safetensors", "BF16", "fp32", "out"),
        ("safetensors", "BF16", "fp16", "out"),
        ("safetensors", "F16", "fp32", "out"),
        ("pytorch", "F32", "bf16", "out.ckpt"),
    ):
        source, output = folder / "source", folder / name
        write_random(source, config, source_dtype, form)
        os.sync()
        file = next(file for file in source.iterdir() if file.suffix in (".safetensors", ".bin"))
        copied, converted, ratios, busy = [], [], [], []
        for turn in range(rounds + 1):
            used = time.process_time()
            begin = time.perf_counter()
            shutil.copyfile(file, folder / "copy")
            copy, copy_used = time.perf_counter() - begin, time.process_time() - used
            (folder / "copy").unlink()
            used = time.process_time()
            begin = time.perf_counter()
            report = convert(source, output, dtype=dtype)
            seconds, used = time.perf_counter() - begin, time.process_time() - used
            shutil.rmtree(output) if output.is_dir() else output.unlink()
            if turn:  # the first fills the file cache
                moved = (report.bytes_read + report.bytes_written) / 2
                copied.append(report.bytes_read / copy)
                converted.append(moved / seconds)
                busy.append((moved / used) / (report.bytes_read / copy_used))
                ratios.append(converted[-1] / copied[-1])
        limit = SAME if report.bytes_read == report.bytes_written and source_dtype[0] == dtype[0].upper() else CAST
        ratio = statistics.median(ratios)
        within = within and ratio >= limit
        print(
            f"{form} {source_dtype} -> {name} {dtype}: {statistics.median(converted) / 1e9:.2f} GB/s, copy "
            f"{statistics.median(copied) / 1e9:.2f} GB/s: {ratio:.2f} of it, limit {limit}; "
            f"all rounds {', '.join(f'{one:.2f}' for one in ratios)}; "
            f"per processor second {statistics.median(busy):.2f}",
            flush=True,
        )
        shutil.rmtree(source)
    return within


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave complete shards as they are: 20 GB of disk")
    parser.add_argument("--small", action="store_true", help="a small vocabulary for the speed")
    args = parser.parse_args()
    within = True
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        if not args.no_speed:
            within = speed(Path(temporary), args.rounds, args.small) and within
        if not args.no_memory:
            within = memory(Path(temporary), args.keep) and within
    return int(not within)


if __name__ == "__main__":
    raise SystemExit(main())
