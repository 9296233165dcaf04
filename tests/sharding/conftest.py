"""`compiled(task, workers, rank)`: what one worker of a sharded job found, compiled in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import stub
from tests.support.compiled import Compiled, DoesNotCompile

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests" / "support" / "sharding_worker.py"
NO_STRATEGY = re.compile(r"the strategy of node \S+ prim (\w+) is empty")


@pytest.fixture(scope="session")
def toolkit(tmp_path_factory) -> dict[str, str]:
    reason = stub.missing()
    if reason:
        pytest.skip(reason)
    return stub.build(tmp_path_factory.mktemp("stub_device"))


@pytest.fixture(scope="session")
def compiled(toolkit, tmp_path_factory) -> Callable[..., Compiled]:
    done: dict[str, Compiled] = {}

    def compile_(workers: int, rank: int = 0, **task) -> Compiled:
        key = json.dumps([workers, rank, task])
        if key not in done:
            done[key] = _run(toolkit, tmp_path_factory.mktemp("worker"), workers, rank, task)
        return done[key]

    return compile_


def _run(toolkit: dict[str, str], folder: Path, workers: int, rank: int, task: dict) -> Compiled:
    report = folder / "report.json"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(task), str(report)],
        cwd=folder,
        env={
            **os.environ,
            **toolkit,
            **stub.place(rank, workers),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MS_SUBMODULE_LOG_v": "{PARALLEL:1}",  # where MindSpore tells which operators it found no strategy for
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=2400,  # the published size on a busy machine
    )
    if ended.returncode:
        told = [line for line in ended.stdout.splitlines() if "[ERROR]" in line or re.match(r"\w*Error: ", line)]
        raise DoesNotCompile("\n".join(told) or ended.stdout[-4000:])
    return Compiled(**json.loads(report.read_text()), without=NO_STRATEGY.findall(ended.stdout))
