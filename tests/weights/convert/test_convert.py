"""Conversion both ways: names, numbers, files; what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.convert import convert as conversion
from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import cast
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.names import to_ours
from mindformers_qwenvl.weights.shapes import our_shapes
from tests.support.checkpoints import ROOT, copy_of, original_bytes
from tests.support.golden import SETS, draw_checkpoint, golden_set


@pytest.mark.parametrize("name", SETS)
def test_one_file(name, checkpoint_dir):
    report = convert(checkpoint_dir(name), "out.safetensors", verify=True)
    written = load_file("out.safetensors")
    assert {key: value.shape for key, value in written.items()} == our_shapes(golden_set(name).config)
    for key, value in draw_checkpoint(name).items():
        assert np.array_equal(np.concatenate([written[part] for part in to_ours(key)]), value)
    assert report.tensors_written == len(written)
    assert report.bytes_written == report.bytes_read == sum(value.nbytes for value in written.values())
    with safe_open("out.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "ms"}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shard", [500_000, 10**9])
def test_round_trip_is_byte_identical(name, shard, checkpoint_dir, monkeypatch):
    monkeypatch.setattr(transfer, "BLOCK", 1000)  # small enough that tensors take many blocks
    convert(checkpoint_dir(name), "ours", max_shard_size=shard)
    convert("ours", "back", reverse=True, max_shard_size=shard, verify=True)
    assert original_bytes(Path("back")) == original_bytes(checkpoint_dir(name))
    for companion in ("config.json", "qwen.tiktoken"):
        assert (Path("back") / companion).read_bytes() == (checkpoint_dir(name) / companion).read_bytes()


@pytest.mark.parametrize(("dtype", "code"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_dtypes(dtype, code, checkpoint_dir):
    report = convert(checkpoint_dir("a56"), "ours", dtype=dtype, verify=True)
    assert report.dtypes == {code: 73}
    assert not report.overflow
    with Checkpoint("ours") as written:
        for key, value in draw_checkpoint("a56").items():
            flat = np.concatenate([written.read(part) for part in to_ours(key)])
            assert np.array_equal(flat, cast(value.reshape(-1), "F32", code)[0])
    convert("ours", "back", reverse=True, dtype="fp32")
    with Checkpoint("back") as back:
        assert {info.dtype for info in back.tensors.values()} == {"F32"}


def test_bf16_to_fp16_overflow_is_counted(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors["transformer.ln_f.weight"][:3] = [70_000, -1e6, 65_504]
    tensors["transformer.h.0.attn.c_attn.bias"][300] = 1e9  # 2 heads of 128: row 300 is in k
    save_file(tensors, shard)
    report = convert(folder, "ours", dtype="fp16", verify=True)
    assert report.overflow == {
        "llm_model.transformer.ln_f.weight": 2,
        "llm_model.transformer.layers.0.attention.wk.bias": 1,
    }
    assert "WARNING  3 values are too large" in str(report)


def test_shards_are_what_mindspore_and_huggingface_look_for(checkpoint_dir):
    report = convert(checkpoint_dir("c448"), "ours", max_shard_size=2_000_000)
    names = [
        f"model-{i:05d}-of-{len(report.files_written):05d}.safetensors" for i in range(1, len(report.files_written) + 1)
    ]
    assert len(names) > 3
    assert sorted(file.name for file in Path("ours").glob("*.safetensors")) == names
    index = json.loads(Path("ours/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == report.bytes_written
    assert json.loads(Path("ours/param_name_map.json").read_text()) == index["weight_map"]
    for name, file in index["weight_map"].items():
        assert name in load_file(f"ours/{file}")
    largest = max(np.prod(shape) * 4 for shape in our_shapes(golden_set("c448").config).values())
    for file in report.files_written:
        assert file.stat().st_size < max(2_000_000, largest) + 20_000


def test_our_directory_loads_as_the_original_does(checkpoint_dir):
    convert(checkpoint_dir("a56"), "ours", max_shard_size=2_000_000)
    theirs, ours = dict(load_original(checkpoint_dir("a56"))), dict(load_original("ours"))
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)


def test_a_finetuned_checkpoint_loses_its_optimizer_on_the_way_back(checkpoint_dir):
    convert(checkpoint_dir("a56"), "ours.safetensors")
    tensors = load_file("ours.safetensors")
    state = {f"adam_m.{name}": np.zeros_like(value) for name, value in tensors.items()}
    state |= {"global_step": np.array([7], np.int32), "learning_rate": np.array([1e-4], np.float32)}
    save_file(tensors | state, "trained.safetensors")
    with pytest.raises(FileNotFoundError, match=r"the original config\.json is needed"):
        convert("trained.safetensors", "back", reverse=True)
    report = convert("trained.safetensors", "back", reverse=True, config=checkpoint_dir("a56"))
    assert sorted(report.dropped) == sorted(state)
    assert original_bytes(Path("back")) == original_bytes(checkpoint_dir("a56"))
    assert Path("back/qwen.tiktoken").is_file()


def test_buffers_of_old_exports_are_dropped(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    save_file({"transformer.h.0.attn.masked_bias": np.float32([-1e4])}, folder / "buffers.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    report = convert(folder, "ours.safetensors")
    assert report.dropped == ["transformer.h.0.attn.masked_bias"]
    assert report.tensors_written == 73


def test_faults_are_listed_and_nothing_is_written(checkpoint_dir):
    folder = copy_of(checkpoint_dir("b224"))
    (folder / "model.safetensors.index.json").unlink()
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    gone = [name for name in tensors if "c_attn" in name]
    for name in gone:
        del tensors[name]
    tensors["transformer.visual.attn_pool.kv_proj.weight"] = np.zeros((4, 4), np.float32)
    save_file(tensors, shard)
    with pytest.raises(ValueError, match=r"does not match its config\.json") as caught:
        convert(folder, "out.safetensors")
    message = str(caught.value)
    assert all(name in message for name in [*gone, "kv_proj.weight", "lm_head.weight is"])
    assert gone
    assert not list(Path.cwd().glob("out*"))


def test_a_dtype_that_is_no_weight(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"].astype(np.int8)
    save_file(tensors, shard)
    with pytest.raises(ValueError, match=r"expected F16, BF16 or F32, but transformer\.ln_f\.weight is I8"):
        convert(folder, "out.safetensors")


def test_parts_of_one_tensor_in_two_dtypes_need_a_dtype(checkpoint_dir):
    convert(checkpoint_dir("a56"), "ours.safetensors")
    tensors = load_file("ours.safetensors")
    name = "vision_encoder.attn_pool.attn.wk.bias"
    tensors[name] = tensors[name].astype(np.float16)
    save_file(tensors, "mixed.safetensors")
    with pytest.raises(ValueError, match="give --dtype"):
        convert("mixed.safetensors", "back", reverse=True, config=checkpoint_dir("a56"))
    convert("mixed.safetensors", "back", reverse=True, config=checkpoint_dir("a56"), dtype="fp32", verify=True)


def test_the_wrong_direction_is_refused(checkpoint_dir):
    with pytest.raises(ValueError, match="it needs no --reverse"):
        convert(checkpoint_dir("a56"), "back", reverse=True)
    convert(checkpoint_dir("a56"), "ours")
    with pytest.raises(ValueError, match="give --reverse"):
        convert("ours", "again")


@pytest.mark.parametrize("output", [".", "out.bin"])
def test_bad_outputs(output, checkpoint_dir):
    os.chdir(copy_of(checkpoint_dir("a56")))
    with pytest.raises(ValueError, match=r"is the input|expected OUT\.safetensors"):
        convert(Path.cwd(), output)
    with pytest.raises(ValueError, match="is a file of the input"):
        convert(Path.cwd(), "model-00001-of-00003.safetensors")
    assert original_bytes(Path.cwd()) == original_bytes(checkpoint_dir("a56"))


def test_a_folder_with_other_weights_is_left_alone(checkpoint_dir):
    other = copy_of(checkpoint_dir("a56"))
    with pytest.raises(ValueError, match="already holds weights"):
        convert(checkpoint_dir("b224"), other)
    assert original_bytes(other) == original_bytes(checkpoint_dir("a56"))


def test_a_second_run_replaces_the_first(checkpoint_dir):
    convert(checkpoint_dir("a56"), "ours", max_shard_size=1_000_000)
    report = convert(checkpoint_dir("a56"), "ours", max_shard_size=10**9)
    assert [file.name for file in Path("ours").glob("*.safetensors")] == ["model.safetensors"]
    assert not Path("ours/model.safetensors.index.json").exists()
    assert report.files_written == [Path("ours/model.safetensors")]


@pytest.mark.parametrize("output", ["out.safetensors", "out.ckpt", "out"])
def test_verify_finds_a_difference(output, checkpoint_dir, monkeypatch):
    written = conversion._fill

    def write_and_damage(file, *rest):
        overflow = written(file, *rest)
        file.flush()
        last = Path(f"/proc/self/fd/{file.fileno()}").read_bytes()[-1]
        os.pwrite(file.fileno(), bytes([last ^ 1]), os.fstat(file.fileno()).st_size - 1)
        return overflow

    monkeypatch.setattr(conversion, "_fill", write_and_damage)
    with pytest.raises(ValueError, match=r"differs from its source in: vision_encoder\."):
        convert(checkpoint_dir("a56"), output, verify=True)


def test_a_full_disk_is_noticed_first(checkpoint_dir, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    with pytest.raises(OSError, match="the disk has 5 free"):
        convert(checkpoint_dir("a56"), "out.safetensors")


def test_where_the_system_cannot_copy_between_files(checkpoint_dir, monkeypatch):
    """Another file system, or no such call at all: the numbers go through memory."""

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    convert(checkpoint_dir("a56"), "copied.safetensors")
    monkeypatch.setattr(os, "copy_file_range", refuse)
    convert(checkpoint_dir("a56"), "read.safetensors", verify=True)
    monkeypatch.delattr(os, "copy_file_range")
    convert(checkpoint_dir("a56"), "none.safetensors")
    assert Path("copied.safetensors").read_bytes() == Path("read.safetensors").read_bytes()
    assert Path("copied.safetensors").read_bytes() == Path("none.safetensors").read_bytes()


def test_nothing_heavy_is_imported(checkpoint_dir):
    program = (
        "import sys; from mindformers_qwenvl.weights.convert.convert import convert\n"
        f"convert({str(checkpoint_dir('a56'))!r}, 'ours', dtype='bf16', verify=True)\n"
        "print(sorted({'mindspore', 'mindformers', 'torch', 'transformers'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
