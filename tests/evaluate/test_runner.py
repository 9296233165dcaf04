"""`evaluate` with the network of set a56: each task's file from end to end, batches, resuming, shares, few-shot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.evaluate.data import Loaded
from mindformers_qwenvl.evaluate.prompts import Asking, ask
from mindformers_qwenvl.evaluate.runner import Share, read_records
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import TASKS
from tests.support import lora
from tests.support.evaluation import BENCHMARKS, write_benchmark
from tests.support.golden import golden_set

IMAGES = golden_set("a56").directory / "images"

pytestmark = pytest.mark.usefixtures("own_logs")


def questions(count, name="data.jsonl"):
    """Questions of different lengths about the four pictures, with the answers of four people."""
    rows = [
        {"image": f"{n % 4}.png", "question": "what " * (1 + n % 5) + f"{n}?", "question_id": n, "answers": ["red"] * 4}
        for n in range(count)
    ]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


@pytest.fixture
def evaluate(checkpoint_dir, network, monkeypatch):
    """The command on set a56. Its network is that of the folder, so that graphs are compiled once for all tests."""
    from mindformers_qwenvl.cli._generation import ModelDirectory

    def given(_, num_blocks, say):
        assert num_blocks <= network.config.num_blocks
        return network

    monkeypatch.setattr(ModelDirectory, "network", given)
    return lambda *words: main(["evaluate", "--model", str(checkpoint_dir("a56")), "--quiet", *map(str, words)])


def records(folder):
    return [json.loads(line) for line in (Path(folder) / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def summary(folder):
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "vqa questions and annotations",
        "textvqa official",
        "docvqa official",
        "karpathy",
        "refcoco+ official",
        pytest.param("scienceqa official", marks=pytest.mark.slow),
        "mmbench official",
        "seed-bench official",
        pytest.param("mme eval_tool", marks=pytest.mark.slow),
    ],
)
def test_from_file_to_score(name, evaluate, tmp_path, capsys):
    """A form of each reader; the others differ in how the file is read, which evaluate/data holds."""
    benchmark = next(one for one in BENCHMARKS if one.name == name)
    path, more = write_benchmark(benchmark, tmp_path)
    words = ["--task", benchmark.task, "--data", path, "--image-dir", "pictures", "--output", "out"]
    words += [word for key, value in more.items() for word in (f"--{key}", value)]
    assert evaluate(*words, "--max-new-tokens", 12) == 0
    assert [record["id"] for record in records("out")] == benchmark.ids
    found = summary("out")
    assert (found["asked"], found["answered"], found["samples"], found["failed"]) == (len(benchmark.ids),) * 3 + (0,)
    assert found["score"] is not None
    assert found["left_out"] == benchmark.left_out
    assert found["seed"] == 0
    assert found["versions"]["mindspore"]
    with Image.open("out/worst.png") as sheet:
        assert sheet.width >= 300


@pytest.mark.slow  # chat/test_batches.py has it for `predict`, whose batches these are
def test_batches_answer_as_single_samples_do(evaluate):
    shutil.copytree(IMAGES, "pictures")
    data = questions(7)
    for size in (1, 3):
        words = ["--task", "vqa", "--data", data, "--image-dir", "pictures", "--output", f"out{size}"]
        assert evaluate(*words, "--batch-size", size, "--max-new-tokens", 6) == 0
    assert records("out1") == records("out3")
    assert len({record["answer"] for record in records("out1")}) > 1


def test_an_answer_is_not_shorter_than_the_task_says(evaluate):
    """Captions have eight tokens at least, whatever else is in the batch."""
    shutil.copytree(IMAGES, "pictures")
    rows = [{"image": f"{n}.png", "references": ["a cat"], "id": n} for n in range(3)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--task", "captions", "--data", "data.jsonl", "--image-dir", "pictures", "--output", "out"]
    assert evaluate(*words, "--batch-size", 3, "--max-new-tokens", 9) == 0
    assert all(8 <= record["new_tokens"] <= 9 for record in records("out"))


def test_other_settings_do_not_mix(evaluate, capsys):
    shutil.copytree(IMAGES, "pictures")
    words = ["--task", "vqa", "--data", questions(2), "--image-dir", "pictures", "--output", "out"]
    assert evaluate(*words, "--max-new-tokens", 2) == 0
    assert evaluate(*words, "--max-new-tokens", 3) == 1
    assert "holds answers made with other settings (max_new_tokens was 2, now 3)" in capsys.readouterr().err


def test_what_fails_is_counted_and_tried_again(evaluate, capsys):
    shutil.copytree(IMAGES, "pictures")
    broken = Path("pictures/1.png").read_bytes()
    Path("pictures/1.png").write_bytes(b"no picture")
    words = ["--task", "vqa", "--data", questions(4), "--image-dir", "pictures", "--output", "out"]
    words += ["--max-new-tokens", 2, "--batch-size", 4]
    assert evaluate(*words) == 1
    assert "1 of 4 samples failed; the same command tries them again" in capsys.readouterr().err
    assert (summary("out")["failed"], summary("out")["samples"]) == (1, 3)
    Path("pictures/1.png").write_bytes(broken)
    assert evaluate(*words) == 0
    assert (summary("out")["failed"], summary("out")["samples"]) == (0, 4)


def test_a_test_set_gets_a_submission(evaluate):
    shutil.copytree(IMAGES, "pictures")
    rows = [{"image": f"{n}.png", "question": "What?", "question_id": 10 + n} for n in range(2)]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--task", "vqav2_testdev", "--data", "test.jsonl", "--image-dir", "pictures", "--output", "out"]
    assert evaluate(*words) == 0
    sent = json.loads(Path("out/submission.json").read_text(encoding="utf-8"))
    assert [(row["question_id"], row["answer"]) for row in sent] == [
        (10 + n, record["answer"]) for n, record in enumerate(records("out"))
    ]
    assert summary("out")["score"] is None
    assert summary("out")["without_truth"] == 2


def test_conversations_in_the_frame_they_were_trained_in(evaluate):
    shutil.copytree(IMAGES, "pictures")
    turns = [
        ("Picture 1: <img>pictures/0.png</img>\nWhat colour?", "red"),
        ("Picture 1: <img>pictures/1.png</img>\nFind it.", "<ref>it</ref><box>(1,2),(30,40)</box>"),
    ]
    data = [
        {"id": n, "conversations": [{"from": "user", "value": ask}, {"from": "assistant", "value": said}]}
        for n, (ask, said) in enumerate(turns)
    ]
    Path("held_out.json").write_text(json.dumps(data), encoding="utf-8")
    for task, asked, system in (("vqa", 0, "You are a helpful assistant."), ("refcoco", 1, "Look.")):
        words = ["--task", task, "--data", "held_out.json", "--output", task, "--max-new-tokens", 4]
        words += ["--system", system] if asked else []
        assert evaluate(*words) == 0
        assert summary(task)["settings"]["system"] == system
        assert [record["id"] for record in records(task)] == [asked]
        assert summary(task)["settings"]["chat_format"] == "chatml"
        assert sum(summary(task)["left_out"].values()) == 1


# ---- without a network


def test_a_box_in_a_conversation_has_room_for_its_words():
    from mindformers_qwenvl.evaluate.evaluation import BOX_IN_WORDS, Evaluation

    def longest(task: str, conversations: bool, given: int | None = None) -> int:
        told = SimpleNamespace(task=TASKS[task], loaded=Loaded([], {}, conversations), max_new_tokens=given)
        return Evaluation._lengths(told)[0]

    assert longest("refcoco", False) == 28
    assert longest("refcoco", True) == BOX_IN_WORDS
    assert longest("vqa", True) == TASKS["vqa"].longest
    assert longest("refcoco", True, 40) == 40


def test_examples_are_drawn_by_the_id_of_the_sample():
    examples = [Sample(n, (f"{n}.png",), f"question {n}", answers=("yes", "no", "no")) for n in range(9)]
    asking = Asking.of(TASKS["okvqa"], few_shot=2, examples=examples, seed=3)
    sample = Sample("a", ("x.png",), "Which?")
    first, again = ask(sample, asking), ask(sample, asking)
    assert first == again
    pieces = first.text.split("<img>")
    assert len(pieces) == 4
    assert pieces[1].startswith("1</img>question ")
    assert pieces[1].endswith(" Answer: no")
    assert pieces[3] == "3</img>Which? Answer:"
    assert first.pictures["3"] == "x.png"
    others = {ask(Sample(name, ("x.png",), "Which?"), asking).text for name in "bcdefg"}
    assert len(others) > 1


def test_prompts_of_ones_own():
    assert ask(Sample(1, ("x.png",), "Q"), Asking.of(TASKS["vqa"], prompt="{question} <img>{image}</img>")).text == (
        "Q <img>1</img>"
    )
    with pytest.raises(ValueError, match=r"has no \{image\}"):
        Asking.of(TASKS["vqa"], prompt="{question}")
    with pytest.raises(ValueError, match=r"may hold only \{image\}"):
        Asking.of(TASKS["vqa"], prompt="{image} {answer}")
    with pytest.raises(ValueError, match="3 examples are to be drawn, but there are only 0"):
        Asking.of(TASKS["vqa"], few_shot=3)


def test_shares_are_of_all_samples_each_once(tmp_path):
    shares = [Share(tmp_path, rank, 3) for rank in range(3)]
    assert sorted(number for share in shares for number in share.mine(range(10))) == list(range(10))
    assert {share.journal.name for share in shares} == {f"answers.rank_{rank}.jsonl" for rank in range(3)}


def test_records_of_all_journals(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": 1, "answer": "a"}\n{"id": 2, "error": "x"}\n', encoding="utf-8")
    (tmp_path / "answers.rank_0.jsonl").write_text('{"id": 1, "error": "y"}\n{"id": 2, "answer": "b"}\n{"id": 3, "ans')
    (tmp_path / "answers.rank_1.jsonl").write_text('{"id": 4}\n[]\n{"id": 5, "answer": "without its line break"}')
    assert read_records(tmp_path) == {"1": {"id": 1, "answer": "a"}, "2": {"id": 2, "answer": "b"}}


# ---- several processes


def command(checkpoint_dir, *words):
    return ["-m", "mindformers_qwenvl", "evaluate", "--model", str(checkpoint_dir("a56")), *map(str, words)]


@pytest.mark.slow
def test_going_on_after_kill_9(checkpoint_dir):
    shutil.copytree(IMAGES, "pictures")
    words = ["--task", "vqa", "--data", questions(40), "--image-dir", "pictures", "--max-new-tokens", 6]
    killed = [*command(checkpoint_dir, *words, "--output", "killed", "--batch-size", 2)]
    process = subprocess.Popen([sys.executable, *killed], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.time() + 300
    while time.time() < deadline and len(read_records(Path("killed"))) < 6:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = read_records(Path("killed"))
    assert 6 <= len(before) < 40
    subprocess.run([sys.executable, *killed], check=True, capture_output=True, timeout=300)
    whole = command(checkpoint_dir, *words, "--output", "whole", "--batch-size", 2)
    subprocess.run([sys.executable, *whole], check=True, capture_output=True, timeout=300)
    assert Path("killed/answers.jsonl").read_bytes() == Path("whole/answers.jsonl").read_bytes()
    assert Path("killed/scores.jsonl").read_bytes() == Path("whole/scores.jsonl").read_bytes()


@pytest.mark.slow
def test_several_processes_share_the_samples(checkpoint_dir):
    shutil.copytree(IMAGES, "pictures")
    words = ["--task", "vqa", "--data", questions(9), "--image-dir", "pictures", "--max-new-tokens", 4]
    single = command(checkpoint_dir, *words, "--output", "single")
    subprocess.run([sys.executable, *single], check=True, capture_output=True, timeout=300)
    shared = command(checkpoint_dir, *words, "--output", "shared")
    Path("worker.py").write_text(
        "import sys\nfrom mindformers_qwenvl.cli import main\nsys.exit(main())\n", encoding="utf-8"
    )
    from tests.support.ports import free_port

    msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
    where = [f"--master_port={free_port()}", "--log_dir=logs_msrun", "--join=True", "--cluster_time_out=300"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [*msrun, *where, "worker.py", *shared[2:]],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=560,
    )
    logs = "".join(file.read_text(errors="replace") for file in Path("logs_msrun").glob("worker_*.log"))
    assert done.returncode == 0, (done.stdout + done.stderr + logs)[-4000:]
    assert Path("shared/answers.jsonl").read_bytes() == Path("single/answers.jsonl").read_bytes()
    assert Path("shared/scores.jsonl").read_bytes() == Path("single/scores.jsonl").read_bytes()
    assert summary("shared")["settings"]["processes"] == 2
    assert sorted(file.name for file in Path("shared").iterdir()) == sorted(
        ["answers.jsonl", "scores.jsonl", "settings.json", "summary.json", "worst.png"]
    )


@pytest.mark.slow
def test_with_an_adapter_as_with_its_merged_weights(checkpoint_dir):
    shutil.copytree(IMAGES, "pictures")
    rows = [
        {"image": f"{n}.png", "question": f"Which, {n}?", "choices": ["red", "blue"], "answer": 0} for n in range(4)
    ]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base, adapter = ["--model", str(checkpoint_dir("a56"))], ["--adapter", str(lora.adapter_dir("a56"))]
    convert = ["convert-weight", "--reverse", "--input_path", base[1], *adapter, "--output_path", "merged"]
    assert main([*convert, "--dtype", "fp32"]) == 0
    losses = {}
    for name, words in {"base": base, "adapter": [*base, *adapter], "merged": ["--model", "merged"]}.items():
        words += ["--task", "scienceqa_img", "--data", "data.jsonl", "--image-dir", "pictures", "--output", name]
        assert main(["evaluate", *words, "--batch-size", "4", "--quiet"]) == 0
        losses[name] = np.array([record["losses"] for record in records(name)])
    np.testing.assert_allclose(losses["adapter"], losses["merged"], atol=1e-4)
    assert np.abs(losses["adapter"] - losses["base"]).max() > 0.01
    assert summary("adapter")["settings"]["adapter"].endswith("adapter")
