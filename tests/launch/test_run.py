"""`mindformers-qwenvl run` in processes of its own: losses and answers are those of the script, and it is quiet."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.recipes import yaml_dir
from tests.support import small_runs
from tests.support.annotation_files import colour_records, write_list
from tests.support.cluster import free_port
from tests.support.small_runs import A56, ONE_LAYER, PREDICT, QUERIES, TEMPLATE

DRIVER = Path(__file__).parents[1] / "support" / "driver.py"
# The real script, of a MindFormers checkout, where there is one: it takes the place of the calls that the tests make.
SCRIPT = os.environ.get("RUN_MINDFORMER")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    records = colour_records(4 * ("red", "green", "blue"))
    return write_list(tmp_path_factory.mktemp("samples") / "train.json", records)


def training(samples: Path, **settings) -> dict:
    """Three steps an epoch, one epoch, a checkpoint after two steps."""
    monitor = {"type": "QwenVLMonitor", "per_print_times": 0}
    saving = {
        "type": "CheckpointMonitor",
        "prefix": "tiny",
        "save_checkpoint_steps": 2,
        "checkpoint_format": "safetensors",
    }
    ours = {
        **ONE_LAYER,
        "runner_config.epochs": 1,
        "lr_schedule.total_steps": 3,
        "callbacks": [{"type": "MFLossMonitor", "per_print_times": 1}, monitor, saving],
    }
    return small_runs.training(samples, **{**ours, **settings})


def words(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def run(folder: Path, *arguments: str, before: tuple[str, ...] = (), code: int = 0) -> subprocess.CompletedProcess[str]:
    """`mindformers-qwenvl run` in `folder`; `before`: the words of msrun."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    python = "python" if before else sys.executable
    done = subprocess.run(
        [*before, python, "-m", "mindformers_qwenvl", "run", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, (done.stdout + done.stderr)[-6000:]
    return done


def losses(folder: Path) -> list[tuple[str, str]]:
    """(step, loss) as QwenVLMonitor has written them."""
    with (folder / "output" / "steps" / "rank_0.csv").open(encoding="utf-8") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def by_script(samples, tmp_path_factory) -> list[tuple[str, str]]:
    """What run_mindformer.py trains, or the calls that it makes."""
    folder = tmp_path_factory.mktemp("script")
    if SCRIPT:
        from mindformers_qwenvl.recipes import read

        changes = [f"{key}={json.dumps(value)}" for key, value in training(samples).items()]
        content = read(yaml_dir() / "finetune_qwenvl_tiny.yaml", changes)
        (folder / "train.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        command = [shutil.copy(SCRIPT, folder), "--config", str(folder / "train.yaml")]
    else:
        task = {"config": str(yaml_dir() / "finetune_qwenvl_tiny.yaml"), "set": training(samples)}
        command = [shutil.copy(DRIVER, folder), json.dumps(task)]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return losses(folder)


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, "--config", "finetune_qwenvl_tiny", *words(training(samples)))


@pytest.mark.slow
def test_losses_are_those_of_the_script(by_script, trained):
    assert losses(trained[0]) == by_script
    assert len(by_script) == 3


def test_it_is_quiet_and_names_its_log(trained):
    folder, done = trained
    log = folder / "output" / "run" / "rank_0.log"
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) <= 6, done.stderr
    assert lines[0].startswith("finetune: ") and lines[0].endswith(str(log))
    assert re.fullmatch(r"step 3/3, loss [\d.]+, lr [\d.e+-]+, [\d,]+ tokens/s, 00:00 left", lines[-2])
    assert lines[-1].startswith("done: steps 1 to 3, loss ")
    assert log.read_text(encoding="utf-8").count("\n") > 100


@pytest.mark.slow
def test_resume(trained, samples, tmp_path, by_script):
    given = words(training(samples))
    checkpoint = trained[0] / "output" / "checkpoint"
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    for later in (tmp_path / "checkpoint").rglob("*-1_3.safetensors"):
        later.unlink()
    options = ["--load_checkpoint", str(tmp_path / "checkpoint"), "--resume_training", "True"]
    done = run(tmp_path, "--config", "finetune_qwenvl_tiny", *given, *options)
    assert losses(tmp_path) == by_script[2:]
    assert "step 3/3" in done.stderr


@pytest.mark.slow
def test_evaluation_prints_the_loss(trained, samples, tmp_path):
    """`--run_mode eval`: what the last step has saved, over samples that it has seen, is better than the first step."""
    (last,) = (trained[0] / "output" / "checkpoint").rglob("*-1_3.safetensors")
    changes = {**training(samples), "eval_dataset.data_loader.annotation_file": str(samples)}
    options = ["--run_mode", "eval", "--load_checkpoint", str(last)]
    done = run(tmp_path, "--config", "finetune_qwenvl_tiny", *words(changes), *options)
    found = re.fullmatch(r"evaluation: loss ([\d.]+) over (\d+) label tokens\n", done.stdout)
    assert found, done.stdout
    assert float(found[1]) < float(losses(trained[0])[0][1])
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def checkpoint(checkpoint_dir, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("a56") / "a56.ckpt"
    assert main(["convert-weight", "--input_path", str(checkpoint_dir("a56")), "--output_path", str(file)]) == 0
    return file


@pytest.mark.slow
def test_predict(checkpoint, tmp_path):
    """The answer, and nothing else, on standard output."""
    image, question = QUERIES["one_image"][0]["image"], QUERIES["one_image"][1]["text"]
    options = ["--run_mode", "predict", "--load_checkpoint", str(checkpoint), "--modal_type", "image", "text"]
    done = run(
        tmp_path, "--config", "predict_qwenvl_tiny", *words(PREDICT), *options, "--predict_data", image, question
    )
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    answer = A56.arrays["greedy.one_image"].tolist()[:8]  # later ones have no text
    text = QwenVLTokenizer(str(A56.vocab_file), image_slots=16).decode(answer)
    assert done.stdout.strip().startswith(text.strip())
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_complete_training_is_not_resumed(trained, samples, tmp_path):
    options = ["--load_checkpoint", str(trained[0] / "output" / "checkpoint"), "--resume_training", "True"]
    done = run(tmp_path, "--config", "finetune_qwenvl_tiny", *words(training(samples)), *options, code=1)
    assert "ValueError: resume_training: the checkpoint is at the end of runner_config.epochs=1" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_an_error_says_its_cause_first(samples, tmp_path):
    settings = training(samples, **{f"{TEMPLATE}.dataset_dir": str(tmp_path / "nowhere")})
    done = run(tmp_path, "--config", "finetune_qwenvl_tiny", *words(settings), code=1)
    said = [line for line in done.stderr.splitlines() if not line.startswith(("finetune: ", "compiling"))]
    assert re.match(r"mindformers-qwenvl run: \w+Error: ", said[0])
    assert "sample_" in said[0] and "nowhere" in said[0]
    assert len(said) <= 4
    log = tmp_path / "output" / "run" / "rank_0.log"
    assert said[-1] == f"  the whole traceback is at the end of {log} (--verbose shows everything)"
    assert "Traceback" in log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_workers_of_msrun(samples, tmp_path, by_script):
    """Data parallel on a CPU: half of the batch each, the same losses; rank 0 shows, both have a log."""
    port = f"--master_port={free_port()}"
    msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2", port]
    settings = training(samples, **{"runner_config.batch_size": 2})
    run(
        tmp_path,
        *("--config", "finetune_qwenvl_tiny", "--use_parallel", "True", *words(settings)),
        before=(*msrun, "--join=True", "--log_dir=logs", "--cluster_time_out=300"),
    )
    for (step, loss), (expected_step, expected) in zip(losses(tmp_path), by_script, strict=True):
        assert step == expected_step
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    first, second = ((tmp_path / "logs" / f"worker_{rank}.log").read_text(encoding="utf-8") for rank in (0, 1))
    assert "step 3/3" in first and "done: steps 1 to 3" in first
    assert "step" not in second
    assert all((tmp_path / "output" / "run" / f"rank_{rank}.log").is_file() for rank in (0, 1))


# ---- before the host is imported


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--config", "finetune_qwenvl_tiny", "--set", "epochs"], "--set epochs: KEY=VALUE is expected"),
        (["--config", "finetune_qwenvl_tiny", "--set", "run_mode=learn"], "run_mode: one of train, finetune"),
        (["--config", "finetune_qwenvl_tiny", "--predict_data", "x"], "add --run_mode predict"),
        (["--config", "predict_qwenvl_tiny", "--predict_data", "x.gif", "--modal_type", "image"], "x.gif"),
    ],
)
def test_bad_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("output").exists()


def test_changes_take_precedence_over_options():
    from mindformers_qwenvl.launch.job import read

    job = read(Path("finetune_qwenvl_tiny"), {"epochs": 2, "batch_size": 8}, ["runner_config.epochs=5"])
    assert job.changes["runner_config.epochs"] == 5
    assert job.changes["runner_config.batch_size"] == 8
