"""`mindformers-qwenvl convert-weight`, as typed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.weights.formats.reader import Checkpoint


def test_the_flags_of_the_old_script(checkpoint_dir, capsys):
    source = str(checkpoint_dir("a56"))
    words = ["convert-weight", "--model", "qwenvl", "--input_path", source, "--output_path", "o.safetensors"]
    assert main([*words, "--dtype", "fp16"]) == 0
    out, err = capsys.readouterr()
    assert "read     61 tensors, 8,464,856 bytes, 3 files" in out
    assert "wrote    73 tensors (73 F16), 4,232,428 bytes, 1 files: o.safetensors" in out
    assert "4.23M/4.23M" in err  # the progress bar counts bytes
    assert {str(array.dtype) for array in load_file("o.safetensors").values()} == {"float16"}


def test_shards_verified_and_back(checkpoint_dir, capsys):
    source = str(checkpoint_dir("a56"))
    convert = ["convert-weight", "--input_path"]
    assert main([*convert, source, "--output_path", "ours", "--max_shard_size", "2MB", "--verify"]) == 0
    assert "verified every byte" in capsys.readouterr().out
    assert len(list(Path("ours").glob("model-*.safetensors"))) > 1
    assert main([*convert, "ours", "--output_path", "back", "--reverse"]) == 0
    with Checkpoint(source) as before, Checkpoint("back") as after:
        assert after.tensors.keys() == before.tensors.keys()
        for name in before:
            assert after.read(name).tobytes() == before.read(name).tobytes()


def test_overflow_is_said_on_stderr(checkpoint_dir, capsys):
    folder = Path(shutil.copytree(checkpoint_dir("a56"), "hf"))
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors["transformer.ln_f.weight"][0] = 1e6
    save_file(tensors, shard)
    assert main(["convert-weight", "--input_path", "hf", "--output_path", "o.safetensors", "--dtype", "fp16"]) == 0
    assert "WARNING  1 values are too large" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--input_path", "nowhere", "--output_path", "o"], "nowhere does not exist; expected a checkpoint folder"),
        (
            ["--input_path", "hf", "--output_path", "o", "--config", "typo"],
            "typo does not exist; expected the original",
        ),
        (
            ["--input_path", "hf", "--output_path", "o", "--max_shard_size", "big"],
            "--max_shard_size must be a size",
        ),
        (["--input_path", "hf", "--output_path", "o", "--reverse"], "it needs no --reverse"),
        (["--input_path", "hf", "--output_path", "hf"], "is the input"),
    ],
)
def test_failures_exit_with_1_and_one_message(extra, message, checkpoint_dir, capsys):
    shutil.copytree(checkpoint_dir("a56"), "hf")
    assert main(["convert-weight", *extra]) == 1
    err = capsys.readouterr().err
    assert err.startswith("mindformers-qwenvl convert-weight: ")
    assert message in err


@pytest.mark.parametrize("extra", [[], ["--model", "llama"], ["--dtype", "int8"]])
def test_bad_usage_exits_with_2(extra, usage_error):
    assert usage_error("convert-weight", *extra)


def test_help_shows_examples(help_text):
    out = help_text("convert-weight")
    assert "--output_path qwenvl.ckpt --dtype fp16" in out
    assert "--max_shard_size" in out
