"""Reading checkpoints: safetensors with and without index, and the faults of each."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX, Checkpoint
from tests.support.checkpoints import copy_of, read_all
from tests.support.golden import SETS, draw_checkpoint


@pytest.mark.parametrize("name", SETS)
def test_reads_every_tensor(name, checkpoint_dir):
    drawn = draw_checkpoint(name)
    read = read_all(checkpoint_dir(name))
    assert read.keys() == drawn.keys()
    assert all(np.array_equal(read[key], drawn[key]) for key in drawn)


def test_ranges(checkpoint_dir):
    with Checkpoint(checkpoint_dir("a56")) as checkpoint:
        whole = checkpoint.read("transformer.ln_f.weight")
        assert np.array_equal(checkpoint.read("transformer.ln_f.weight", 10, 20), whole[10:20])


def test_shards_without_index(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    (folder / SAFETENSORS_INDEX).unlink()
    assert read_all(folder).keys() == draw_checkpoint("a56").keys()


def test_the_index_chooses_the_shards(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "old.safetensors")
    assert len(read_all(folder)) == 61
    (folder / SAFETENSORS_INDEX).unlink()
    with pytest.raises(ValueError, match=r"old\.safetensors holds .* again"):
        Checkpoint(folder)


def test_a_missing_shard_is_named(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors"):
        Checkpoint(folder)


def test_an_index_that_lists_more_than_the_shards_hold(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    index = json.loads((folder / SAFETENSORS_INDEX).read_text())
    index["weight_map"]["transformer.h.2.ln_1.weight"] = "model-00001-of-00003.safetensors"
    (folder / SAFETENSORS_INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"do not hold: transformer\.h\.2\.ln_1\.weight"):
        Checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {"a": "../secret.safetensors"}}'])
def test_a_broken_index(content, tmp_path):
    (tmp_path / SAFETENSORS_INDEX).write_text(content)
    with pytest.raises(ValueError, match="is not a weight index"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_a_cut_file_is_named(cut, checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shard = folder / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model-00003-of-00003\.safetensors is (not a safetensors|damaged)"):
        Checkpoint(folder)


def test_a_header_that_lies_about_a_shape(tmp_path):
    save_file({"a": np.zeros(8, np.float32)}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data.replace(b'"shape":[8]', b'"shape":[9]'))
    with pytest.raises(ValueError, match="a holds 32 bytes, its shape needs 36"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("dtype", ["F32"], r"a has the dtype \['F32'\]"),
        ("data_offsets", ["0", 32], "a is at bytes 0 to 32"),
        ("data_offsets", [0, 32.0], r"a is at bytes 0 to 32\.0"),
        ("data_offsets", [64, 32], "a is at bytes 64 to 32"),
        ("data_offsets", [32], "not enough values"),
        ("shape", ["8"], r"has the shape \['8'\]"),
        ("shape", [True, 8], r"has the shape \[True, 8\]"),
        ("shape", None, "NoneType"),
    ],
)
def test_a_header_with_another_kind_of_value(field, value, reason, tmp_path):
    entry = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]} | {field: value}
    write_safetensors(tmp_path / "a.safetensors", json.dumps({"a": entry}))
    with pytest.raises(
        ValueError, match=rf"a\.safetensors is not a safetensors file, or its header is damaged.*{reason}"
    ):
        Checkpoint(tmp_path)


def test_a_header_nested_without_end(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", "[" * 200_000)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a safetensors file"):
        Checkpoint(tmp_path)


def write_safetensors(file, header):
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(32))


def test_a_file_that_shrinks_while_it_is_read(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    with Checkpoint(folder) as checkpoint:
        shard = folder / "model-00003-of-00003.safetensors"
        os.truncate(shard, 5_000)
        with pytest.raises(OSError, match=r"model-00003-of-00003\.safetensors was cut short while it was being read"):
            for name in checkpoint:
                checkpoint.read(name)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Checkpoint(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    for step in (6, 12):
        (tmp_path / f"iteration_{step:08}").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no weights itself; give .* such as .*iteration_00000012$"):
        Checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"expected \.safetensors"):
        Checkpoint(tmp_path / "notes.txt")
