"""Inputs that change while they are read, and inputs with NaN or infinity. No MindSpore."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import STORAGE, cast, not_finite
from tests.support.checkpoints import copy_of

NAME = "transformer.h.0.ln_1.weight"


def damaged(source: Path, values: dict[int, float], name: str = NAME) -> Path:
    """A copy of a checkpoint in which some numbers of a tensor are others; it is float32."""
    folder = copy_of(source)
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            tensors[name] = tensors[name].copy()
            for place, value in values.items():
                tensors[name].flat[place] = value
            save_file(tensors, shard)
            return folder
    raise AssertionError(name)


@pytest.mark.parametrize("output", ["ours", "ours.safetensors", "ours.ckpt"])
@pytest.mark.parametrize("dtype", [None, "bf16", "fp16"])
def test_nan_and_infinity_are_counted(checkpoint_dir, output, dtype):
    source = damaged(checkpoint_dir("a56"), {0: np.nan, 1: np.inf, 2: -np.inf, 3: -np.nan})
    report = convert(source, output, dtype=dtype)
    assert list(report.not_finite.values()) == [4] and not report.overflow
    (name,) = report.not_finite
    assert "WARNING  4 values of the input are NaN or infinite" in str(report) and f"{name} (4)" in str(report)


def test_a_sound_checkpoint_says_nothing_of_it(checkpoint_dir):
    report = convert(checkpoint_dir("a56"), "ours")
    assert not report.not_finite and "NaN" not in str(report)


def test_a_rerun_remembers_what_was_counted(checkpoint_dir, monkeypatch):
    from mindformers_qwenvl.weights.convert.workfolder import WorkFolder

    def stopped(*_):
        raise KeyboardInterrupt

    source = damaged(checkpoint_dir("a56"), {0: np.nan})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(WorkFolder, "publish", stopped)
        convert(source, "ours", max_shard_size=1_000_000)
    report = convert(source, "ours", max_shard_size=1_000_000)
    assert report.kept and list(report.not_finite.values()) == [1]


def test_the_command_warns_on_stderr(checkpoint_dir, capsys):
    source = damaged(checkpoint_dir("a56"), {0: np.inf})
    assert main(["convert-weight", "--input_path", str(source), "--output_path", "ours"]) == 0
    assert "1 values of the input are NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize("code", STORAGE)
def test_counting_agrees_with_numpy(code):
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert not_finite(cast(values, "F32", code)[0], code) == 0
    assert not_finite(cast(-np.abs(values), "F32", code)[0], code) == 0
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        values[7] = bad
        assert not_finite(cast(values, "F32", code)[0], code) == 1
    assert not_finite(np.empty(0, STORAGE[code]), code) == 0


@pytest.mark.parametrize("output", ["ours", "ours.safetensors", "ours.ckpt"])
@pytest.mark.parametrize("way", ["write", "replace", "remove"])
def test_an_input_that_changes_meanwhile_gives_no_output(checkpoint_dir, output, way):
    source = copy_of(checkpoint_dir("a56"))
    shard = sorted(source.glob("*.safetensors"))[0]

    def change(total):
        def tick(name, count):
            if way == "write":
                with shard.open("r+b") as file:
                    file.seek(-1, os.SEEK_END)
                    file.write(b"\0")
            elif way == "replace":
                Path("copy").write_bytes(shard.read_bytes())
                Path("copy").replace(shard)
            else:
                shard.unlink(missing_ok=True)

        return tick

    with pytest.raises(ValueError, match=r"model-00001-of-00003\.safetensors changed while it was being read"):
        convert(source, output, progress=change)
    assert not Path("ours.safetensors").exists() and not Path("ours.ckpt").exists()
    assert not list(Path().glob("ours/*.safetensors"))


def write_header(entries: str, content: int) -> None:
    Path("a.safetensors").write_bytes(len(entries).to_bytes(8, "little") + entries.encode() + bytes(content))


def entry(start: int, stop: int) -> dict:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (json.dumps({"a": entry(0, 8), "b": entry(4, 12)}), "b and a overlap"),
        (json.dumps({"a": entry(0, 12), "b": entry(0, 12)}), "overlap"),
        (json.dumps({"a": entry(0, 12), "b": entry(4, 8)}), "b and a overlap"),
        (json.dumps({"a": entry(0, 4), "b": entry(8, 12)}), "no tensor holds bytes before b"),
        (f'{{"a": {json.dumps(entry(0, 8))}, "a": {json.dumps(entry(8, 12))}}}', "a appears twice"),
    ],
)
def test_tensors_that_share_bytes_or_a_name_are_refused(header, reason):
    from mindformers_qwenvl.weights.formats.reader import Checkpoint

    write_header(header, 12)
    with pytest.raises(ValueError, match=f"a.safetensors is (damaged|not a safetensors file).*{reason}"):
        Checkpoint("a.safetensors")


def test_tensors_in_any_order_and_empty_ones_are_read():
    from mindformers_qwenvl.weights.formats.reader import Checkpoint

    write_header(json.dumps({"b": entry(8, 12), "none": entry(8, 8), "a": entry(0, 8), "end": entry(12, 12)}), 12)
    with Checkpoint("a.safetensors") as checkpoint:
        assert sorted(checkpoint) == ["a", "b", "end", "none"]
