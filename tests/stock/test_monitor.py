"""QwenVLMonitor in the stock Trainer: a run that is killed, and goes on."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.registration import yaml_dir
from mindformers_qwenvl.training.steps_file import read_steps
from tests.support.small_runs import DRIVER, ONE_LAYER, run, training

STEPS = "output/steps/rank_0.csv"
TOO_LONG = 300  # seconds
TENSORBOARD = "\ntensorboard:\n  tensorboard_dir: 'board'\n  tensorboard_queue_size: 1\n"


def settings(samples: Path, host_monitor: bool, **more) -> dict:
    checkpoints = {"type": "CheckpointMonitor", "prefix": "tiny", "save_checkpoint_steps": 2, "keep_checkpoint_max": 9}
    callbacks = [{"type": "QwenVLMonitor", "peak_tflops": 0.1}, {**checkpoints, "checkpoint_format": "ckpt"}]
    if host_monitor:
        callbacks.insert(0, {"type": "MFLossMonitor", "per_print_times": 1})
    return training(
        samples,
        **{
            **ONE_LAYER,
            "callbacks": callbacks,
            "lr_schedule.total_steps": 9,
            "lr_schedule.warmup_steps": 2,
            "optimizer.vision_lr_decay": 0.9,  # the rate that is reported is that of all else
            "output_dir": "./output",
            **more,
        },
    )


@pytest.fixture(scope="module")
def killed(samples, tmp_path_factory) -> tuple[Path, list[dict], str]:
    """Folder, rows and log of a training that was killed after its fifth step."""
    folder = tmp_path_factory.mktemp("killed")
    driver = shutil.copy(DRIVER, folder)
    config = str(yaml_dir() / "finetune_qwenvl_tiny.yaml")
    task = {"config": config, "set": settings(samples, True, **{"runner_config.epochs": 100})}
    log = folder / "printed.txt"
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, driver, json.dumps(task)], cwd=folder, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            until = time.monotonic() + TOO_LONG
            while not ((folder / STEPS).exists() and len(read_steps(folder / STEPS)) >= 5):
                assert process.poll() is None, log.read_text()[-6000:]
                assert time.monotonic() < until, log.read_text()[-6000:]
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    return folder, read_steps(folder / STEPS), log.read_text()


def test_every_step_is_a_row(killed):
    _, rows, _ = killed
    assert len(rows) >= 5
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["epoch"] for row in rows[:5]] == [1, 1, 1, 2, 2]  # three steps each
    for row in rows:
        assert all(math.isfinite(row[name]) for name in ("loss", "grad_norm", "learning_rate")), row
        assert row["overflow"] == 0
        assert row["loss_scale"] == 1
        assert 0 <= row["waited"] < row["seconds"]
        # Four samples of 96 positions and one picture each.
        assert row["tokens_per_s"] == pytest.approx(4 * 96 / row["seconds"], rel=1e-6)
        assert row["images_per_s"] == pytest.approx(4 / row["seconds"], rel=1e-6)
        assert 0 < row["mfu"] < 5


def test_the_numbers_are_those_of_the_host(killed):
    _, rows, printed = killed
    theirs = re.findall(
        r"loss:\[([\d.]+)/.*?lr: (\S+), overflow cond: False, loss_scale: \S+, global_norm: \[?([\d.]+)", printed
    )
    assert len(theirs) >= len(rows) - 1
    for row, (loss, learning_rate, norm) in zip(rows, theirs, strict=False):
        assert f"{row['loss']:.6f}" == loss
        assert row["learning_rate"] == pytest.approx(float(learning_rate), rel=1e-6)
        assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    ours = re.findall(r"step (\d+), epoch \d+, loss ([\d.]+), learning rate .* tokens/s, .* images/s, MFU", printed)
    for row, (step, loss) in zip(rows, ours, strict=False):
        assert (str(row["step"]), f"{row['loss']:.6f}") == (step, loss)
    assert len(ours) >= 5


def test_the_learning_rate_warms_up_and_follows_the_cosine(killed):
    """finetune_qwenvl_tiny.yaml: from 0 to 1e-3 in the first 2 of 9 steps, then down to 2e-5."""
    _, rows, _ = killed
    cosine = [2e-5 + 0.5 * (1e-3 - 2e-5) * (1 + math.cos(math.pi * step / 7)) for step in range(3)]
    assert [row["learning_rate"] for row in rows[:5]] == pytest.approx([0, 5e-4, *cosine], rel=1e-5)


def test_a_resumed_run_continues_the_file(killed, samples, capsys):
    """Without the MFLossMonitor, the one that the host tells where a run begins; and with TensorBoard.

    `sink_mode`, with which the host would train three times as long on a CPU, is off there.
    """
    folder, before, _ = killed
    assert (folder / "output/checkpoint/rank_0/tiny_rank_0-1_2.ckpt").is_file()
    with (folder / STEPS).open("a") as file:
        file.write("6,2,0.12")  # what a kill may leave of a line
    resumed = {"load_checkpoint": str(folder / "output/checkpoint"), "resume_training": "tiny_rank_0-1_2.ckpt"}
    resumed["load_ckpt_format"] = "ckpt"
    resumed |= {"runner_config.sink_mode": True, "runner_config.sink_size": 1}
    with_board = (yaml_dir() / "finetune_qwenvl_tiny.yaml").read_text(encoding="utf-8") + TENSORBOARD
    (folder / "board.yaml").write_text(with_board, encoding="utf-8")
    run(folder, folder / "board", settings(samples, False, **resumed))
    rows = read_steps(folder / STEPS)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[:2] == before[:2]
    for name in ("epoch", "loss", "learning_rate", "grad_norm"):
        assert [row[name] for row in rows[:5]] == [row[name] for row in before[:5]], name
    assert rows[2]["seconds"] != before[2]["seconds"]  # taken anew
    assert main(["plot", str(folder)]) == 0
    assert "6 steps, 1 to 6" in capsys.readouterr().out
    assert (folder / "curves.png").stat().st_size > 10_000
    (events,) = folder.glob("board/rank_0/events.out.*")
    written = events.read_bytes()
    assert [written.count(tag) for tag in (b"tokens-per-second", b"images-per-second", b"mfu")] == [4, 4, 4]


@pytest.mark.slow
def test_resumed_without_the_hosts_monitors(killed, samples, tmp_path):
    """The step is then the optimizer's, which the checkpoint holds."""
    folder, _, _ = killed
    shutil.copytree(folder / "output/steps", tmp_path / "output/steps")
    before = read_steps(tmp_path / STEPS)
    resumed = {"load_checkpoint": str(folder / "output/checkpoint"), "resume_training": "tiny_rank_0-1_2.ckpt"}
    resumed["load_ckpt_format"] = "ckpt"
    alone = {"callbacks": [{"type": "QwenVLMonitor"}]}
    run(tmp_path, "finetune_qwenvl_tiny", settings(samples, False, **resumed, **alone))
    rows = read_steps(tmp_path / STEPS)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[:2] == before[:2]
    assert [row["loss"] for row in rows[:5]] == [row["loss"] for row in before[:5]]
    assert [path.name for path in (tmp_path / "output/steps").iterdir()] == ["rank_0.csv"]
