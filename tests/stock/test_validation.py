"""Held-out samples while a training runs and on their own, through the calls that run_mindformer.py makes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.datasets.split import held_out_records
from mindformers_qwenvl.registration import yaml_dir
from mindformers_qwenvl.training.steps_file import read_steps
from tests.support.annotation_files import colour_records
from tests.support.cluster import finished
from tests.support.small_runs import A56, ONE_LAYER, PREDICT, run
from tests.support.small_runs import training as full_training

WORDS = ("red", "green", "blue", "grey", "white", "black", "none", "many", "of", "them", "here")


def training(samples: Path, **settings) -> dict:
    return full_training(samples, **ONE_LAYER, **settings)


def conversations(count: int, first: int = 0) -> list[dict]:
    """Answers of one to six words, so that a mean over batches is not one over label tokens."""
    lengths = {number: 1 + number % 6 for number in range(first, first + count)}
    answers = (" ".join(WORDS[(at + n) % len(WORDS)] for n in range(length)) for at, length in lengths.items())
    return colour_records(answers, first)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """14 samples to learn from, 7 held out."""
    folder = tmp_path_factory.mktemp("samples")
    for name, records in (("train", conversations(14)), ("held_out", conversations(7, 14))):
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder / "train.json", folder / "held_out.json"


TENSORBOARD = """
tensorboard:
  tensorboard_dir: './board'
  tensorboard_queue_size: 10
  log_timers_to_tensorboard: True
  log_loss_scale_to_tensorboard: True
"""


def recipe(folder: Path, held_out: Path, more: str = "", **changes: str) -> str:
    """The tiny YAML, with its keys for evaluation set, as a user would, and `more`; its name without .yaml."""
    text = (yaml_dir() / "finetune_qwenvl_tiny.yaml").read_text(encoding="utf-8")
    for key, value in {"annotation_file: 'test.json'": f"annotation_file: '{held_out}'", **changes}.items():
        assert key in text, key
        text = text.replace(key, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text + more, encoding="utf-8")
    return str(folder / "recipe")


@pytest.fixture(scope="module")
def validated(files, tmp_path_factory) -> tuple[Path, str]:
    """Folder and output of a training of six steps with an evaluation every two."""
    folder = tmp_path_factory.mktemp("validated")
    changes = {"do_eval: False": "do_eval: True", "eval_step_interval: 50": "eval_step_interval: 2"}
    settings = training(files[0], callbacks=[{"type": "MFLossMonitor"}, {"type": "QwenVLMonitor"}])
    return folder, run(folder, recipe(folder, files[1], TENSORBOARD, **changes), settings)


def validations(printed: str) -> dict[int, float]:
    found = re.findall(r"validation after step (\d+): loss ([\d.]+) over \d+ label tokens", printed)
    return {int(step): float(loss) for step, loss in found}


def evaluated(folder: Path, files, checkpoint: Path, **more) -> float:
    settings = training(files[0], load_checkpoint=str(checkpoint), load_ckpt_format="safetensors", callbacks=[], **more)
    printed = run(folder, recipe(folder, files[1], **{"run_mode: 'finetune'": "run_mode: 'eval'"}), settings)
    (loss,) = set(re.findall(r"evaluation: loss ([\d.]+) over \d+ label tokens", printed))
    return float(loss)


def test_every_two_steps_in_log_and_csv(validated):
    folder, printed = validated
    found = validations(printed)
    assert sorted(found) == [2, 4, 6]
    assert found[6] < found[2]
    rows = read_steps(folder / "output" / "steps" / "rank_0.csv")
    assert {row["step"]: row["val_loss"] for row in rows if row["val_loss"] is not None} == {
        step: pytest.approx(loss, abs=1e-5) for step, loss in found.items()
    }
    assert len(rows) == 6
    assert all(0 <= row["waited"] < row["seconds"] for row in rows)  # the evaluation is in neither


def scalars(board: Path, tag: str) -> dict[int, float]:
    """Step -> value of a curve in TensorBoard's event files: length, checksum, event, checksum; again and again."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for file in board.rglob("events.*"):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found.update((event.step, value.simple_value) for value in event.summary.value if value.tag == tag)
            data = data[16 + length :]
    return found


def test_in_tensorboard(validated):
    folder, printed = validated
    assert scalars(folder / "board", "validation-loss") == pytest.approx(validations(printed), abs=1e-5)


def test_the_best_step_is_kept_and_named(validated):
    folder, printed = validated
    best = json.loads((folder / "output" / "best" / "best.json").read_text(encoding="utf-8"))
    found = validations(printed)
    assert best["step"] == min(found, key=found.get)
    assert best["loss"] == pytest.approx(min(found.values()), abs=1e-5)
    assert (folder / "output" / "best" / best["file"]).is_file()


@pytest.mark.slow
def test_run_mode_eval_finds_the_same_loss(validated, files, tmp_path):
    """Whatever the batch: the last one is filled up with samples without labels, and tokens are counted."""
    folder, _ = validated
    best = folder / "output" / "best"
    wanted = json.loads((best / "best.json").read_text(encoding="utf-8"))["loss"]
    for size in (4, 5):
        found = evaluated(
            tmp_path / str(size), files, best / "rank_0.safetensors", **{"runner_config.batch_size": size}
        )
        assert found == pytest.approx(wanted, abs=2e-5)


@pytest.mark.slow
def test_a_part_of_the_training_file_is_held_out(validated, files, tmp_path):
    """`split` of train_dataset: the evaluation takes the other part of the same file."""
    split = {"train_dataset.data_loader.split": 0.4, "eval_dataset.data_loader.annotation_file": str(files[0])}
    settings = training(files[0], load_checkpoint=str(validated[0] / "output" / "best" / "rank_0.safetensors"), **split)
    settings |= {"load_ckpt_format": "safetensors", "callbacks": []}
    printed = run(tmp_path, recipe(tmp_path, files[1], **{"run_mode: 'finetune'": "run_mode: 'eval'"}), settings)
    with_split = set(re.findall(r"evaluation: loss [\d.]+ over (\d+) label tokens", printed))
    held_out = held_out_records(AnnotationFile(files[0]), 0.4)
    assert 0 < len(held_out) < 14
    (tmp_path / "part.json").write_text(
        json.dumps([one for number, one in enumerate(conversations(14)) if number in held_out]), encoding="utf-8"
    )
    settings |= {"train_dataset.data_loader.split": None}
    settings |= {"eval_dataset.data_loader.annotation_file": str(tmp_path / "part.json")}
    again = run(tmp_path, recipe(tmp_path, files[1], **{"run_mode: 'finetune'": "run_mode: 'eval'"}), settings)
    assert with_split == set(re.findall(r"evaluation: loss [\d.]+ over (\d+) label tokens", again))


@pytest.mark.slow
def test_two_cards_validate_as_one(files, tmp_path):
    """Eight held-out samples, four a card; the weights are those of one card, so the loss is."""
    held_out = tmp_path / "eight.json"
    held_out.write_text(json.dumps(conversations(8, 14)), encoding="utf-8")
    losses = {}
    for workers in (1, 2):
        settings = training(files[0], callbacks=[{"type": "QwenVLMonitor", "per_print_times": 0}])
        settings |= {"runner_config.batch_size": 4 // workers, "do_eval": True, "eval_step_interval": 2}
        settings |= {"eval_dataset.data_loader.annotation_file": str(held_out)}
        job = finished(tmp_path / str(workers), settings, workers)
        for rank in range(workers):
            rows = read_steps(job.folder / "output" / "steps" / f"rank_{rank}.csv")
            losses[workers, rank] = {row["step"]: row["val_loss"] for row in rows if row["val_loss"] is not None}
    assert sorted(losses[1, 0]) == [2, 4, 6]
    for rank in range(2):
        assert losses[2, rank] == pytest.approx(losses[1, 0], rel=1e-5)


@pytest.mark.slow
def test_validation_does_not_change_the_training(validated, files, tmp_path):
    folder, _ = validated
    settings = training(files[0], callbacks=[{"type": "QwenVLMonitor"}])
    run(tmp_path, "finetune_qwenvl_tiny", settings)
    with_it, without = (read_steps(place / "output" / "steps" / "rank_0.csv") for place in (folder, tmp_path))
    assert [row["loss"] for row in with_it] == [row["loss"] for row in without]


def test_the_curve_is_drawn(validated, tmp_path):
    pytest.importorskip("matplotlib")
    folder, _ = validated
    assert main(["plot", str(folder / "output"), "--output", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_eval_task_in_a_yaml(validated, files, tmp_path):
    """`run_mode: eval` with a benchmark, on the network of the YAML and the weights that a training has saved."""
    folder, _ = validated
    task = {"task": "vqa", "data": str(files[1]), "image_dir": str(A56.directory / "images"), "max_new_tokens": 3}
    settings = {
        **PREDICT,
        **ONE_LAYER,
        "eval_task": {**task, "output": str(tmp_path / "scores")},
        "load_checkpoint": str(folder / "output" / "best" / "rank_0.safetensors"),
        "load_ckpt_format": "safetensors",
    }
    text = (yaml_dir() / "predict_qwenvl_tiny.yaml").read_text(encoding="utf-8")
    (tmp_path / "eval.yaml").write_text(text.replace("run_mode: 'predict'", "run_mode: 'eval'"), encoding="utf-8")
    run(tmp_path, str(tmp_path / "eval"), settings)
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["asked"], summary["samples"], summary["failed"]) == (7, 7, 0)
