"""convert-weight, convert-data and check-data, killed: forked from this process, which has imported what they need."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.robust.killed import A56, HANGS, Killed, content
from tests.support.golden import write_checkpoint


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


def _half_there(found: dict[str, bytes], sound: dict[str, bytes], may_differ: Callable[[str], bool]) -> list[str]:
    """Names under which a killed run has left something other than a whole result."""
    return [name for name, data in found.items() if name in sound and data != sound[name] and not may_differ(name)]


def _kill_forked(
    name: str,
    words: Callable[[Path], list[str]],
    kills: int,
    seed: int,
    may_differ: Callable[[str], bool] = lambda name: False,
) -> Killed:
    """Killed at any moment of the run, and then run again to the end, into the same folder."""
    killed = Killed(name)
    moments = random.Random(f"{seed} {name}")
    with tempfile.TemporaryDirectory() as place:
        _imported(words(Path(place) / "imported"))
        folder = Path(place) / "sound"
        folder.mkdir()
        began = time.monotonic()
        code = _wait(_forked(words(folder)))
        took = time.monotonic() - began
        sound = content(folder)
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
            left = content(folder)
            killed.count(wrote=bool(left), unfinished=any(file not in sound for file in left))
            if half := _half_there(left, sound, may_differ):
                killed.faults.append(f"kill {number}: {half} half there")
            again = _wait(_forked(words(folder)))
            result = content(folder)
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
