"""Reading an Int4 checkpoint of a few published layers: seconds beside a plain copy of the bytes that are written.

    python -m tests.bench.bench_gptq [--layers 2] [--dtype fp16]

A decoder layer of the published size has 202M numbers, 101 MB at 4 bits; in float16 they are 405 MB. The goal is 0.4 of
the rate at which a file of the result's size is copied on the same disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.shapes import original_shapes
from tests.support.golden import golden_set

MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")


def write(folder: Path, layers: int) -> None:
    """A checkpoint with the published layers and a small vision tower and vocabulary."""
    config = dict(golden_set("qwen-vl-9.6b").config)
    config |= {"num_hidden_layers": layers, "vocab_size": 1024, "torch_dtype": "float16"}
    config["visual"] = {**config["visual"], "layers": 1}
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
    }
    rng, tensors = np.random.default_rng(0), {}
    for name, shape in original_shapes(config).items():
        stem = name.removesuffix(".weight")
        if not (".h." in name and stem.endswith(MATRICES) and name.endswith(".weight")):
            tensors[name] = np.zeros(shape, np.float16)
            continue
        rows, columns = shape
        groups = columns // 128
        tensors[f"{stem}.qweight"] = rng.integers(-(2**31), 2**31, (columns // 8, rows), np.int64).astype(np.int32)
        tensors[f"{stem}.qzeros"] = np.full((groups, rows // 8), 0x77777777, np.int32)
        tensors[f"{stem}.scales"] = rng.uniform(0.001, 0.01, (groups, rows)).astype(np.float16)
        tensors[f"{stem}.g_idx"] = (np.arange(columns) // 128).astype(np.int32)
        if not stem.endswith("c_attn"):
            tensors[f"{stem}.bias"] = np.zeros(rows, np.float16)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], default="fp16")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, result, copy = (Path(folder, name) for name in ("int4", "plain.safetensors", "copy.safetensors"))
        source.mkdir()
        write(source, args.layers)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        shares = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            report = convert(source, result, dtype=args.dtype)
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            with result.open("rb") as read, copy.open("wb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
            plain = time.perf_counter() - start
            shares.append(plain / seconds)
            size = report.bytes_written / 1e6
            print(f"{size:,.0f} MB in {seconds:.2f} s; a copy {plain:.2f} s: {shares[-1]:.2f} of its rate")
            result.unlink()
            copy.unlink()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"best {max(shares):.2f}; memory grew by {grown / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
