"""Small files made to take minutes or gigabytes: refused at once. No MindSpore."""

from __future__ import annotations

import json
import os
import pickle
import time
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import pytest

from mindformers_qwenvl.weights.formats.reader import Checkpoint


@contextmanager
def refused(message):
    started = time.process_time()  # whatever else the machine does
    with pytest.raises(ValueError, match=message):
        yield
    assert time.process_time() - started < 15


def write_bin(content: bytes) -> None:
    with zipfile.ZipFile("a.bin", "w") as archive:
        archive.writestr("archive/data.pkl", content)


@pytest.mark.parametrize("key", [1, (1, 2), None, 1.5])
def test_dicts_have_texts_as_keys(key):
    write_bin(pickle.dumps({key: 1}, protocol=2))
    with refused("a key that is not a string"):
        Checkpoint("a.bin")


def test_dicts_are_not_copied():
    write_bin(pickle.dumps(OrderedDict([("a", 1)]), protocol=2).replace(b")R", b"}\x85R"))
    with refused("a copy of a dict"):
        Checkpoint("a.bin")


def test_no_attribute_of_ours_is_set():
    from mindformers_qwenvl.weights.formats import torch_file

    write_bin(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evilK\x01sb.")
    with refused("expected a dict of tensors"):
        Checkpoint("a.bin")
    assert not hasattr(torch_file._tensor, "evil")


def varint(number: int) -> bytes:
    low = b""
    while number > 0x7F:
        low, number = low + bytes([number & 0x7F | 0x80]), number >> 7
    return low + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("packed", [True, False])
def test_a_ckpt_with_sides_without_end(packed):
    side = varint((1 << 63) - 1)
    dims = field(1, side * 50_000) if packed else (b"\x08" + side) * 50_000
    tensor = dims + field(2, b"Float32") + field(3, b"1234")
    Path("a.ckpt").write_bytes(field(1, field(1, b"name") + field(2, tensor)))
    with refused("more numbers than 64 bits can count|dimensions, expected at most 32"):
        Checkpoint("a.ckpt")


@pytest.mark.parametrize("shape", [[1] * 1_000_000, [2**62] * 30, [10**400]])
def test_a_safetensors_file_with_sides_without_end(shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    Path("a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with refused("more numbers than 64 bits can count|dimensions, expected at most 32"):
        Checkpoint("a.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "ckpt"])
def test_a_pipe_among_the_shards_is_left_out(suffix):
    Path("folder").mkdir()
    os.mkfifo(f"folder/a.{suffix}")
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Checkpoint("folder")


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "ckpt"])
def test_a_pointer_of_git_lfs_is_named(suffix):
    Path(f"a.{suffix}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with refused("is a git-lfs pointer, not the weights"):
        Checkpoint(f"a.{suffix}")


def test_a_dtype_that_nobody_knows(tmp_path):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F\x1b", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with Checkpoint(path) as checkpoint, pytest.raises(ValueError, match=r"a is F\\x1b, which cannot be read"):
        checkpoint.read("a")
