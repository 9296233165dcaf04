"""Commands killed with SIGKILL at random moments, and run again: nothing is half there, lost or left behind.

convert-weight, convert-data and check-data are forked from this process, which has imported what they need. MindSpore
has threads after its import, so predict, evaluate and training are processes of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support.golden import golden_set, write_checkpoint

A56 = golden_set("a56")
HANGS = 600.0  # seconds of a run; a busy machine may stand still for a while


@dataclass
class Killed:
    """What the kills of a command led to."""

    name: str
    kills: int = 0
    early: int = 0  # before it had written anything
    writing: int = 0
    same: int = 0
    faults: list[str] = field(default_factory=list)

    def row(self) -> str:
        cells = (self.name, self.kills, self.early, self.writing, self.same, len(self.faults))
        return f"| {' | '.join(map(str, cells))} |"


# ---- forked


def _forked(words: list[str]) -> int:
    """The command in a process that is forked from this one; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(null, "wb"))
        from mindformers_qwenvl.cli import main

        code = main(words)
    finally:
        os._exit(code)


def _imported(words: list[str]) -> None:
    """Have the command import here what it needs, so that the forked ones spend their time on their work."""
    from mindformers_qwenvl.cli import main

    Path(words[-1]).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(words)


def _wait(child: int) -> int:
    until = time.monotonic() + HANGS
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitpid(child, 0)[1]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _half_there(found: dict[str, bytes], sound: dict[str, bytes], may_differ: Callable[[str], bool]) -> list[str]:
    """Names under which a killed run has left something else than a whole result."""
    return [name for name, data in found.items() if name in sound and data != sound[name] and not may_differ(name)]


def _kill_forked(
    name: str,
    words: Callable[[Path], list[str]],
    kills: int,
    seed: int,
    may_differ: Callable[[str], bool] = lambda name: False,
) -> Killed:
    killed = Killed(name, kills)
    moments = random.Random(f"{seed} {name}")
    with tempfile.TemporaryDirectory() as place:
        _imported(words(Path(place) / "imported"))
        folder = Path(place) / "sound"
        folder.mkdir()
        began = time.monotonic()
        code = _wait(_forked(words(folder)))
        took = time.monotonic() - began
        sound = _content(folder)
        if not sound:
            killed.faults.append(f"it wrote nothing, and ended with {code}")
            return killed
        for number in range(kills):
            folder = Path(place) / f"{number}"
            folder.mkdir()
            child = _forked(words(folder))
            time.sleep(moments.uniform(0, took))
            os.kill(child, signal.SIGKILL)
            _wait(child)
            left = _content(folder)
            killed.early += not left
            killed.writing += any(file not in sound for file in left)
            if half := _half_there(left, sound, may_differ):
                killed.faults.append(f"kill {number}: {half} half there")
            again = _wait(_forked(words(folder)))
            result = _content(folder)
            if again != code or result.keys() != sound.keys() or _half_there(result, sound, may_differ):
                killed.faults.append(f"kill {number}: then it ended with {again}, {sorted(result)} for {sorted(sound)}")
            else:
                killed.same += 1
            shutil.rmtree(folder)
    return killed


def convert_weight(kills: int, seed: int) -> Killed:
    """Into a folder of shards."""
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint("a56", Path(place), seed=0)
        start = ["convert-weight", "--input_path", place, "--dtype", "fp32", "--max_shard_size", "300KB"]
        return _kill_forked("convert-weight", lambda to: [*start, "--output_path", str(to / "out")], kills, seed)


def convert_data(kills: int, seed: int) -> Killed:
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(A56.image(0), Path(place) / "a.png")
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat." * 50}]
        records = [
            {"id": str(number), "image": "a.png" if number % 3 else "missing.png", "conversations": turns}
            for number in range(4_000)
        ]
        data = Path(place) / "data.json"
        data.write_text(json.dumps(records), encoding="utf-8")
        start = ["convert-data", "--quiet", "--data_path", str(data), "--image_location", place]
        return _kill_forked("convert-data", lambda to: [*start, "--output_path", str(to / "out.json")], kills, seed)


def check_data(kills: int, seed: int) -> Killed:
    """In two processes, with a report, a histogram and a corrected copy."""
    from tests.support.check_samples import talk, write_yaml

    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data.json"
        answer = "<ref>it</ref><box>（1,2）,（30,40）</box>"
        data.write_text(json.dumps([talk("question " * 20, answer) for _ in range(600)]), encoding="utf-8")
        start = ["check-data", str(data), "--yaml", str(write_yaml(Path(place))), "--quiet", "--workers", "2"]

        def words(to: Path) -> list[str]:
            more = ["--report", str(to / "found.jsonl"), "--fix-boxes", str(to / "fixed.json")]
            return [*start, *more, "--histogram", str(to / "lengths.png")]

        return _kill_forked("check-data", words, kills, seed, lambda name: name.endswith(".png"))


# ---- processes of their own


def _until(process: subprocess.Popen, so: Callable[[], bool]) -> None:
    until = time.monotonic() + HANGS
    while not so() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def _answers(path: Path) -> dict[str, bytes]:
    """Whole lines with an answer."""
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    return {str(json.loads(line)["id"]): line for line in lines if "answer" in json.loads(line)}


def _kill_answering(name: str, words: Callable[[Path], list[str]], journal: str, kills: int, seed: int) -> Killed:
    """Killed and resumed until all is answered, and then from the beginning, until there were `kills` kills: half of
    them at any moment since the start, the others after some answers more."""
    killed = Killed(name)
    moments = random.Random(f"{seed} {name}")

    def start(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "mindformers_qwenvl", *words(folder)]
        log = (folder.parent / "log.txt").open("ab")
        return subprocess.Popen(command, cwd=folder.parent, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sound"
        folder.mkdir()
        began = time.monotonic()
        code = start(folder).wait(HANGS)
        took = time.monotonic() - began
        sound, files = _answers(folder / journal), sorted(_content(folder))
        if code or not sound:
            killed.faults.append(f"it ended with {code}: {(Path(place) / 'log.txt').read_text()[-500:]}")
            return killed
        while killed.kills < kills:
            folder = Path(place) / f"{killed.kills}"
            folder.mkdir()
            before: dict[str, bytes] = {}
            while killed.kills < kills:
                process = start(folder)
                if moments.random() < 0.5:
                    time.sleep(moments.uniform(0, took))
                else:
                    more = len(before) + moments.randrange(1, len(sound) // 2)
                    path = folder / journal
                    _until(process, lambda most=more, path=path: len(_answers(path)) >= most)
                if process.poll() is not None:
                    break
                process.kill()
                process.wait()
                killed.kills += 1
                found = _answers(folder / journal)
                killed.early += not found
                killed.writing += bool(found)
                if before.items() - found.items():
                    killed.faults.append(f"kill {killed.kills}: answers are lost")
                if found.items() - sound.items():
                    killed.faults.append(f"kill {killed.kills}: answers are others")
                before = found
            code = start(folder).wait(HANGS)
            if code or _answers(folder / journal).items() ^ sound.items() or sorted(_content(folder)) != files:
                killed.faults.append(f"after {killed.kills}: it ended with {code}, {sorted(_content(folder))}")
            else:
                killed.same += 1
            shutil.rmtree(folder)
    return killed


def predict(kills: int, seed: int) -> Killed:
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        model.mkdir()
        write_checkpoint("a56", model, seed=0)
        asked = Path(place) / "q.jsonl"
        lines = [json.dumps({"id": str(number), "text": f"Tell me of number {number}."}) for number in range(40)]
        asked.write_text("\n".join(lines), encoding="utf-8")
        start = ["predict", "--model", str(model), "--input", str(asked), "--greedy", "--max-new-tokens", "6"]
        start += ["--batch-size", "2", "--quiet"]
        return _kill_answering(
            "predict", lambda to: [*start, "--output", str(to / "out.jsonl")], "out.jsonl", kills, seed
        )


def evaluate(kills: int, seed: int) -> Killed:
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "model"
        model.mkdir()
        write_checkpoint("a56", model, seed=0)
        shutil.copy(A56.image(0), Path(place) / "a.png")
        rows = [
            {"question_id": number, "image": "a.png", "question": f"What is {number}?", "answer": "a cat"}
            for number in range(30)
        ]
        data = Path(place) / "gqa.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        start = ["evaluate", "--task", "gqa", "--data", str(data), "--model", str(model), "--max-new-tokens", "4"]
        start += ["--batch-size", "2", "--quiet"]
        return _kill_answering(
            "evaluate", lambda to: [*start, "--output", str(to / "scores")], "scores/answers.jsonl", kills, seed
        )


def _train(kills: int, seed: int, workers: int) -> Killed:
    """Trainings with a checkpoint every two steps; the resumed one ends with the weights of one that was not killed."""
    from mindformers_qwenvl.weights.formats.reader import Checkpoint
    from tests.support.cluster import Job
    from tests.support.small_runs import training

    killed = Killed("training" if workers == 1 else "training in two processes", kills)
    moments = random.Random(f"{seed} training {workers}")

    def settings(samples: Path, **more) -> dict:
        return training(samples, **{"runner_config.epochs": 4, "runner_config.batch_size": 4 // workers, **more})

    def last(folder: Path) -> dict[str, bytes]:
        weights = {}
        for rank in range(workers):
            saved = (folder / f"output/checkpoint/rank_{rank}").glob("*.ckpt")
            files = sorted(saved, key=lambda file: _step(file.name))
            with Checkpoint(files[-1]) as checkpoint:
                for name in checkpoint.tensors:
                    weights[f"{rank} {files[-1].name} {name}"] = checkpoint.read(name).tobytes()
        return weights

    with tempfile.TemporaryDirectory() as place:
        samples = Path(place) / "samples.json"
        samples.write_text(json.dumps(_samples()), encoding="utf-8")
        folder = Path(place) / "sound"
        began = time.monotonic()
        with Job(folder, settings(samples), workers) as job:
            code = job.end()
        took = time.monotonic() - began
        if code:
            killed.faults.append(f"it ended with {code}: {job.printed()[-800:]}")
            return killed
        sound = {name.split(" ", 2)[2] + name[0]: data for name, data in last(folder).items()}
        for number in range(kills):
            folder = Path(place) / f"{number}"
            with Job(folder, settings(samples), workers) as job:
                until = time.monotonic() + moments.uniform(0, took)
                _until(job.process, lambda until=until: time.monotonic() > until)
                with contextlib.suppress(AssertionError, ProcessLookupError, FileNotFoundError):
                    job.kill(*range(workers))
            steps = [*folder.glob("output/checkpoint/rank_*/*.ckpt")]
            killed.early += not steps
            killed.writing += bool(steps)
            resumed = {"load_checkpoint": "./output/checkpoint", "resume_training": True} if steps else {}
            with Job(folder, settings(samples, **resumed), workers) as job:
                code = job.end()
            found = {name.split(" ", 2)[2] + name[0]: data for name, data in last(folder).items()} if not code else {}
            if code or found != sound:
                differ = [name for name in sound if found.get(name) != sound[name]]
                killed.faults.append(f"kill {number}: ended with {code}, others: {differ[:3]}; {job.printed()[-400:]}")
            else:
                killed.same += 1
            shutil.rmtree(folder)
    return killed


def _step(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removesuffix(".ckpt").rpartition("-")[2].split("_"))


def _samples() -> list[dict]:
    words = np.random.default_rng(0).choice(["red", "green", "blue"], 12)
    return [
        {
            "id": str(number),
            "conversations": [
                {"from": "user", "value": f"Picture 1: <img>{A56.image(number % 4).name}</img>\nWhich colour?"},
                {"from": "assistant", "value": str(word)},
            ],
        }
        for number, word in enumerate(words)
    ]


COMMANDS: dict[str, Callable[[int, int], Killed]] = {
    "convert-weight": convert_weight,
    "convert-data": convert_data,
    "check-data": check_data,
    "predict": predict,
    "evaluate": evaluate,
    "training": lambda kills, seed: _train(kills, seed, 1),
    "training in two processes": lambda kills, seed: _train(kills, seed, 2),
}
