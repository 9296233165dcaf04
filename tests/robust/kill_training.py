"""Training, killed in one process and in two, and resumed: it ends with the bits of one that was not killed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from tests.robust.killed import HANGS, Killed
from tests.support.annotation_files import colour_records, write_list
from tests.support.cluster import Job
from tests.support.small_runs import ONE_LAYER, training

EPOCHS, STEPS = 8, 3  # of 12 samples, 4 a step
EACH = 2  # steps between two checkpoints; a resumed run may save the odd ones
SAVED, ROWS = "output/checkpoint", "output/steps"


class Saved(NamedTuple):
    """A checkpoint: rank folder, steps so far, digest of its content."""

    rank: str
    step: int
    digest: str


def train(kills: int, seed: int, workers: int) -> Killed:
    """Killed and resumed in the same folder until it has ended, and then from the beginning, until there were `kills`
    kills: half of them at any moment of the run, the others at a random step."""
    killed = Killed("training" if workers == 1 else "training in two processes")
    moments = random.Random(f"{seed} training {workers}")
    with tempfile.TemporaryDirectory() as place:
        samples = Path(place) / "samples.json"
        answers = np.random.default_rng(0).choice(["red", "green", "blue"], 4 * STEPS)
        write_list(samples, colour_records(map(str, answers)))
        folder = Path(place) / "sound"
        began = time.monotonic()
        with Job(folder, _settings(samples, workers, each=1, keep=99), workers) as job:
            code = job.end()
        took = time.monotonic() - began
        sound = {*_saved(folder, {}).values()}
        rows = _rows(job)
        if code or len(sound) != workers * EPOCHS * STEPS:
            killed.faults.append(f"it ended with {code}, {sorted(sound)}: {job.printed()[-800:]}")
            return killed
        while killed.kills < kills:
            folder = Path(place) / f"{killed.kills}"
            saved: dict[str, Saved] = {}
            unfinished: set[Path] = set()
            while True:
                with Job(folder, _settings(samples, workers, resumed=bool(saved)), workers) as job:
                    _until_a_moment(job, took if killed.kills < kills else None, moments)
                    code = job.process.poll()
                if code is not None:
                    break
                before, left = saved, unfinished
                saved, unfinished = _saved(folder, before), {*folder.glob(f"{SAVED}/*/*.tmp")}
                killed.count(wrote=bool(saved.keys() - before.keys()), unfinished=bool(unfinished - left))
                if others := [name for name, one in saved.items() if one not in sound]:
                    killed.faults.append(f"kill {killed.kills}: {others} have other bits")
                if _is_over(folder):
                    break
            if code is None:  # killed when its last checkpoint was there: nothing is left to resume
                pass
            elif code or _last(folder, workers) != _last(folder.with_name("sound"), workers) or _rows(job) != rows:
                steps = [path.name for path in sorted(folder.glob(f"{SAVED}/*/*"))]
                killed.faults.append(f"after {killed.kills}: it ended with {code}, {steps}: {job.printed()[-800:]}")
            else:
                killed.same += 1
            shutil.rmtree(folder)
    return killed


def _settings(samples: Path, workers: int, each: int = EACH, keep: int = 3, resumed: bool = False) -> dict:
    checkpoints = {"type": "CheckpointMonitor", "prefix": "tiny", "save_checkpoint_steps": each}
    checkpoints |= {"checkpoint_format": "safetensors", "keep_checkpoint_max": keep}
    more = {"load_checkpoint": f"./{SAVED}", "resume_training": True} if resumed else {}
    return training(
        samples,
        **{
            **ONE_LAYER,
            "model.model_config.freeze_vision": True,  # as in the recipe of the 9.6B model; compiles faster
            "runner_config.epochs": EPOCHS,
            "runner_config.batch_size": 4 // workers,
            "callbacks": [{"type": "QwenVLMonitor", "per_print_times": 0}, checkpoints],
            **more,
        },
    )


def _until_a_moment(job: Job, took: float | None, moments: random.Random) -> None:
    """Wait for a random moment of the run or a random step that is to come; without `took`, for the end."""
    done = len(job.rows())
    hangs = time.monotonic() + HANGS
    ends, step, late = hangs, EPOCHS * STEPS + 1, 0.0
    if took is not None and (moments.random() < 0.5 or done >= EPOCHS * STEPS):
        ends = time.monotonic() + moments.uniform(0, took)
    elif took is not None:
        step, late = moments.randint(done + 1, EPOCHS * STEPS), moments.uniform(0, took / 100)
    while job.process.poll() is None and time.monotonic() < ends:
        if len(job.rows()) >= step:
            time.sleep(late)
            return
        time.sleep(0.005)
    if time.monotonic() > hangs:
        raise TimeoutError(f"a training took over {HANGS:.0f} s: {job.printed()[-800:]}")


def _is_over(folder: Path) -> bool:
    """Whether the file that MindFormers has noted last is that of the last step."""
    note = folder / SAVED / "rank_0/meta.json"
    named = json.loads(note.read_text())["last_ckpt_file"] if note.exists() else ""
    return bool(named) and _held(note.with_name(named)).step == EPOCHS * STEPS


def _saved(folder: Path, known: dict[str, Saved]) -> dict[str, Saved]:
    """What each checkpoint in `folder` holds, by name; `known` are those that were there before."""
    files = {file.name: file for file in folder.glob(f"{SAVED}/*/*.safetensors")}
    return {name: known.get(name) or _held(file) for name, file in files.items()}


def _held(file: Path) -> Saved:
    """All that it takes to resume: weights, moments, numbers. The header's order is not always the same, and of a run
    that was resumed within an epoch MindFormers counts the step in the name from there."""
    arrays, found = load_file(file), hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return Saved(file.parent.name, int(arrays["step_num"].item()), found.hexdigest())


def _last(folder: Path, workers: int) -> list[Saved]:
    """The checkpoint that each rank has saved last."""
    ranks = [folder.glob(f"{SAVED}/rank_{rank}/*.safetensors") for rank in range(workers)]
    return [_held(max(files, key=lambda file: file.stat().st_mtime_ns)) for files in map(list, ranks) if files]


def _rows(job: Job) -> list[list[list[str]]]:
    """Step, epoch, loss, learning rate and gradient norm of each step, by rank."""
    return [job.rows(rank) for rank in range(job.workers)]
