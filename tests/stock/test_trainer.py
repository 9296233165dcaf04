"""Training, resuming and predicting with the tiny YAMLs, through the calls that run_mindformer.py makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.weights.convert.dtypes import widen
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.load import load_original
from tests.support.small_runs import (
    A56,
    LLM,
    PREDICT,
    QUERIES,
    assert_golden,
    losses,
    run,
    training,
)

SAVED = "output/checkpoint/rank_0"


# ---- train and resume


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory) -> tuple[Path, dict[tuple[int, int], str]]:
    """Folder and losses of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, losses(run(folder, "finetune_qwenvl_tiny", training(samples)))


def test_training_learns_and_saves(trained):
    folder, found = trained
    assert sorted(found) == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)]
    assert float(found[2, 3]) < float(found[1, 1])
    saved = sorted(file.name for file in (folder / SAVED).glob("*.safetensors"))
    assert saved == ["tiny_rank_0-1_2.safetensors", "tiny_rank_0-2_1.safetensors", "tiny_rank_0-2_3.safetensors"]


@pytest.mark.slow  # test_monitor.py resumes too, and compares losses, learning rates and norms
def test_resumed_losses_are_those_of_the_uninterrupted_training(trained, samples, tmp_path):
    folder, uninterrupted = trained
    settings = training(
        samples, load_checkpoint=str(folder / "output/checkpoint"), resume_training="tiny_rank_0-1_2.safetensors"
    )
    resumed = losses(run(tmp_path, "finetune_qwenvl_tiny", settings))
    assert resumed == {step: loss for step, loss in uninterrupted.items() if step > (1, 2)}


@pytest.mark.slow
def test_the_trained_checkpoint_answers(trained, checkpoint_dir, tmp_path):
    """As a .ckpt file, whose name takes precedence over the YAML's `load_ckpt_format`; nothing of it is left out."""
    words = ["convert-weight", "--input_path", str(trained[0] / "output" / "checkpoint")]
    assert main([*words, "--config", str(checkpoint_dir("a56")), "--output_path", str(tmp_path / "trained.ckpt")]) == 0
    settings = {**PREDICT, f"{LLM}.max_decode_length": 80, "load_checkpoint": str(tmp_path / "trained.ckpt")}
    printed = run(tmp_path, "predict_qwenvl_tiny", settings, input_data=[QUERIES["one_image"]])
    assert len(_printed(printed, "TEXTS")) == 1
    (missing,) = re.findall(r"Network parameters are not loaded: \(\[(.*?)\]", printed)
    assert all(".cache." in name for name in missing.split(", ") if name)  # the key/value cache is not in a checkpoint


def test_the_checkpoint_of_a_training_goes_back_to_the_original_layout(trained, checkpoint_dir, tmp_path, capsys):
    """The folder MindFormers saved to, with the optimizer's state and several steps, as it is."""
    saved = trained[0] / "output" / "checkpoint"
    words = ["convert-weight", "--input_path", str(saved), "--config", str(checkpoint_dir("a56"))]
    assert main([*words, "--output_path", str(tmp_path / "back"), "--reverse", "--verify"]) == 0
    report = capsys.readouterr().out
    assert re.search(r"dropped  \d+ tensors: .*adam_m\.", report), report
    assert main([*words, "--output_path", str(tmp_path / "one.safetensors")]) == 0
    with (
        Checkpoint(saved / "rank_0" / "tiny_rank_0-2_3.safetensors") as last,
        Checkpoint(tmp_path / "one.safetensors") as one,
    ):
        assert len(one.tensors) == 73
        for name in one:
            assert one.read(name).tobytes() == last.read(name).tobytes()
        back = dict(load_original(tmp_path / "back"))
        assert back.keys() == one.tensors.keys()
        for name, array in back.items():
            assert array.astype(np.float32).tobytes() == widen(one.read(name), one.tensors[name].dtype).tobytes()
    untrained = dict(load_original(checkpoint_dir("a56")))
    assert any(not np.array_equal(back[name], untrained[name]) for name in back)


# ---- predict


@pytest.fixture(scope="module")
def checkpoint(checkpoint_dir, tmp_path_factory) -> Path:
    """Set a56 as a .ckpt, converted by the command."""
    file = tmp_path_factory.mktemp("a56") / "a56.ckpt"
    words = ["convert-weight", "--model", "qwenvl", "--input_path", str(checkpoint_dir("a56"))]
    assert main([*words, "--output_path", str(file), "--dtype", "fp32"]) == 0
    return file


def _printed(text: str, word: str) -> list:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{word} ")]
    return json.loads(line.removeprefix(f"{word} "))


@pytest.mark.slow  # test_doors.py predicts by a YAML too
@pytest.mark.parametrize("name", ["one_image", "two_images"])
def test_greedy_ids_are_the_goldens(checkpoint, tmp_path, name):
    """--predict_data IMG "question" --modal_type image text, with one picture and with two."""
    settings = {**PREDICT, "load_checkpoint": str(checkpoint)}
    printed = run(tmp_path, "predict_qwenvl_tiny", settings, input_data=[QUERIES[name]])
    (row,) = _printed(printed, "GENERATED")
    assert_golden(row, name)
    (text,) = _printed(printed, "TEXTS")
    assert text
    assert f"output result is: [{text!r}]" in printed
    assert (tmp_path / "multi_modal_to_text_generation_result.txt").read_text(encoding="utf-8") == str([text])


TEXTS = [
    f"Picture 1: <img>{A56.image(0)}</img>\nWhat is it?",
    f"Picture 1: <img>{A56.image(1)}</img>\nPicture 2: <img>{A56.image(2)}</img>\nCompare them.",
    "Hello, who are you? 你好",
]


@pytest.mark.slow
@pytest.mark.parametrize("queries", [list(QUERIES.values()), TEXTS], ids=["elements", "texts"])
def test_greedy_ids_of_a_batch_from_the_original_folder(checkpoint_dir, tmp_path, queries):
    """Several questions at once, with different numbers of pictures; weights without conversion. As texts they are
    what run_mindformer.py makes of --predict_data TEXT TEXT TEXT --predict_batch_size 3."""
    settings = {**PREDICT, "load_checkpoint": str(checkpoint_dir("a56"))}
    printed = run(tmp_path, "predict_qwenvl_tiny", settings, input_data=queries, batch_size=len(queries))
    rows = _printed(printed, "GENERATED")
    longest = max(len(A56.arrays[f"ids.{name}"]) for name in QUERIES)
    assert len(rows) == len(queries)
    for row, name in zip(rows, QUERIES, strict=True):
        assert len(row) > longest
        assert_golden(row, name)
    assert len(set(_printed(printed, "TEXTS"))) == len(queries)
