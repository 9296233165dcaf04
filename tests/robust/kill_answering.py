"""predict and evaluate, killed: processes of their own, which go on from the answers that they find."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.robust.killed import A56, HANGS, Killed, content, one_layer_model


def _until(process: subprocess.Popen, so: Callable[[], bool]) -> None:
    until = time.monotonic() + HANGS
    while not so() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def _answers(path: Path) -> dict[str, bytes]:
    """Whole lines with an answer."""
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    return {str(json.loads(line)["id"]): line for line in lines if "answer" in json.loads(line)}


def _kill_answering(
    name: str, words: Callable[[Path], list[str]], journal: str, kills: int, seed: int, result: str = ""
) -> Killed:
    """Killed and run again until all is answered, and then from the beginning, until there were `kills` kills: half of
    them at any moment of the run, the others after some more answers. At the end the answers in `journal` must be those
    of a run that was not killed, in any order, and the file `result` the same byte for byte."""
    killed = Killed(name)
    moments = random.Random(f"{seed} {name}")

    def start(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "mindformers_qwenvl", *words(folder)]
        with (folder.parent / "log.txt").open("wb") as log:
            return subprocess.Popen(command, cwd=folder.parent, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as place:
        said = Path(place) / "log.txt"
        folder = Path(place) / "sound"
        folder.mkdir()
        began = time.monotonic()
        code = start(folder).wait(HANGS)
        took = time.monotonic() - began
        sound, whole = _answers(folder / journal), content(folder)
        if code or not sound:
            killed.faults.append(f"it ended with {code}: {said.read_text()[-500:]}")
            return killed
        while killed.kills < kills:
            folder = Path(place) / f"{killed.kills}"
            folder.mkdir()
            path = folder / journal
            before: dict[str, bytes] = {}
            process = start(folder)
            while killed.kills < kills:
                if moments.random() < 0.5:
                    ends = time.monotonic() + moments.uniform(0, took)
                    _until(process, lambda ends=ends: time.monotonic() > ends)
                else:
                    most = len(before) + moments.randrange(1, len(sound) // 2)
                    _until(process, lambda most=most, path=path: len(_answers(path)) >= most)
                if process.poll() is not None:
                    break
                process.kill()
                process.wait()
                found = _answers(path)
                torn = path.exists() and not (b"\n" + path.read_bytes()).endswith(b"\n")
                unfinished = torn or any(file.endswith(".tmp") for file in content(folder))
                killed.count(wrote=len(found) > len(before), unfinished=unfinished)
                if before.items() - found.items():
                    killed.faults.append(f"kill {killed.kills}: answers are lost")
                if found.items() - sound.items():
                    killed.faults.append(f"kill {killed.kills}: answers are others")
                before = found
                process = start(folder)
            code = process.wait(HANGS)
            left = content(folder)
            same = left.keys() == whole.keys() and left.get(result) == whole.get(result)
            if code or not same or _answers(path).items() ^ sound.items():
                problem = f"it ended with {code}, {sorted(left)} for {sorted(whole)}: {said.read_text()[-500:]}"
                killed.faults.append(f"after {killed.kills}: {problem}")
            else:
                killed.same += 1
            shutil.rmtree(folder)
    return killed


def predict(kills: int, seed: int) -> Killed:
    """Texts alone: no graph of the vision tower is compiled."""
    with tempfile.TemporaryDirectory() as place:
        model = one_layer_model(Path(place) / "model")
        asked = Path(place) / "q.jsonl"
        lines = [json.dumps({"id": str(number), "text": f"Tell me of number {number}."}) for number in range(80)]
        asked.write_text("\n".join(lines), encoding="utf-8")
        start = ["predict", "--model", str(model), "--input", str(asked), "--greedy", "--max-new-tokens", "12"]
        start += ["--batch-size", "2", "--quiet"]
        return _kill_answering(
            "predict", lambda to: [*start, "--output", str(to / "out.jsonl")], "out.jsonl", kills, seed
        )


def evaluate(kills: int, seed: int) -> Killed:
    """With a picture in each question."""
    with tempfile.TemporaryDirectory() as place:
        model = one_layer_model(Path(place) / "model")
        shutil.copy(A56.image(0), Path(place) / "a.png")
        rows = [
            {"question_id": number, "image": "a.png", "question": f"What is {number}?", "answer": "a cat"}
            for number in range(60)
        ]
        data = Path(place) / "gqa.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        start = ["evaluate", "--task", "gqa", "--data", str(data), "--model", str(model), "--max-new-tokens", "8"]
        start += ["--batch-size", "2", "--quiet"]

        def words(to: Path) -> list[str]:
            return [*start, "--output", str(to / "scores")]

        return _kill_answering("evaluate", words, "scores/answers.jsonl", kills, seed, "scores/scores.jsonl")
