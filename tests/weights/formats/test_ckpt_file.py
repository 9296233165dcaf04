""".ckpt files read and written without MindSpore; test_mindspore.py compares them with MindSpore's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_qwenvl.weights.convert import writer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import STORAGE
from mindformers_qwenvl.weights.formats import ckpt_file
from mindformers_qwenvl.weights.formats.ckpt_file import value_header
from mindformers_qwenvl.weights.formats.reader import Checkpoint


def value(name: str, numbers: np.ndarray, dtype: str = "F32", shape: tuple[int, ...] | None = None) -> bytes:
    data = numbers.tobytes()
    return value_header(name, dtype, numbers.shape if shape is None else shape, len(data)) + data


def test_slices_are_joined(checkpoint_dir, monkeypatch):
    """Tensors in slices of 1,000 bytes, the last of each shorter; blocks begin and end inside of them."""
    monkeypatch.setattr(writer, "SLICE", 1000)
    convert(checkpoint_dir("a56"), "sliced.ckpt", verify=True)
    monkeypatch.setattr(writer, "SLICE", ckpt_file.SLICE)
    convert(checkpoint_dir("a56"), "whole.ckpt")
    with Checkpoint("sliced.ckpt") as sliced, Checkpoint("whole.ckpt") as whole:
        assert sliced.tensors == whole.tensors
        for name, info in whole.tensors.items():
            assert sliced.read(name).tobytes() == whole.read(name).tobytes()
            begin, end = info.size // 3, info.size - info.size // 5
            assert sliced.read(name, begin, end).tobytes() == whole.read(name, begin, end).tobytes()


def test_a_checksum_at_the_end_is_no_tensor():
    content = value("a", np.float32([1, 2])) + value("b", np.float16([3]), "F16")
    Path("a.ckpt").write_bytes(content + b"crc_num" + (12345).to_bytes(10, "big"))
    with Checkpoint("a.ckpt") as checkpoint:
        assert checkpoint.tensors.keys() == {"a", "b"}
        assert checkpoint.read("a").tolist() == [1, 2]


def test_a_single_number():
    Path("a.ckpt").write_bytes(value("loss", np.float32(7)))
    with Checkpoint("a.ckpt") as checkpoint:
        assert checkpoint.tensors["loss"].shape == ()
        assert checkpoint.read("loss").tolist() == [7]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (value("a", np.float32([1, 2]))[:-1], "ends inside a field"),
        (value("a", np.float32([1, 2]), shape=(3,)), "a holds 8 bytes, its shape needs 12"),
        (value("a", np.float32([1])) + value("b", np.float32([1])) + value("a", np.float32([1])), "a appears twice"),
        (b"\x12\x00", "found field 2 where a tensor should be"),
        (b"\x0b\x00", "unknown wire type 3"),
        (b"\xff" * 30, "expected a number at byte 0"),
    ],
)
def test_damage_is_named(content, reason):
    Path("a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.ckpt is not a MindSpore checkpoint, or is damaged .*{reason}"):
        Checkpoint("a.ckpt")


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_named_or_harmless(data):
    content = bytearray(value("a", np.arange(6, dtype=np.float32), shape=(2, 3)) + value("b", np.float32([1])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    Path("a.ckpt").write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        with Checkpoint("a.ckpt") as checkpoint:
            for name, info in checkpoint.tensors.items():
                if info.dtype in STORAGE:
                    checkpoint.read(name)
    except ValueError as error:
        assert "a.ckpt" in str(error)  # both outcomes are right
