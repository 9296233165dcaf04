"""Trainings in several processes of msrun on this machine; test_data_parallel.py uses it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mindformers_qwenvl.registration import yaml_dir
from tests.support.ports import free_port

LONG = 600  # seconds; a busy machine may stand still for minutes
NODE_TIMEOUT = 300  # seconds until a process that says nothing counts as dead; the host's own is too short for that
HERE = Path(__file__).parent


class Job:
    """A run of the stock Trainer with finetune_qwenvl_tiny.yaml and `settings`, started in `folder`."""

    def __init__(self, folder: Path, settings: dict, workers: int = 2, node_timeout: int = NODE_TIMEOUT):
        self.folder, self.workers = folder, workers
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "driver.py", folder)  # MindSpore writes beside them
        driver = shutil.copy(HERE / "watched.py", folder)
        settings = {"output_dir": "./output", **settings, "use_parallel": workers > 1}
        task = json.dumps({"config": str(yaml_dir() / "finetune_qwenvl_tiny.yaml"), "set": settings})
        command = [sys.executable, driver, task]
        if workers > 1:
            msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run"]
            msrun += [f"--worker_num={workers}", f"--local_worker_num={workers}", f"--master_port={free_port()}"]
            # msrun starts its workers with the `python` of the PATH.
            command = [*msrun, "--log_dir=logs", "--join=True", f"--cluster_time_out={NODE_TIMEOUT}", *command[1:]]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.printed_file = folder / "printed.txt"
        with self.printed_file.open("w") as printed:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PATH": path, "MS_NODE_TIMEOUT": str(node_timeout)},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_) -> None:
        """Leave nothing of it behind."""
        if self.process.poll() is None:
            for pid in (*self._children(), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def printed(self) -> str:
        """By it, and by its workers."""
        files = [self.printed_file, *sorted(self.folder.glob("logs/worker_*.log"))]
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def rows(self, rank: int = 0) -> list[list[str]]:
        """Of each step so far: step, epoch, loss, learning rate, gradient norm, as QwenVLMonitor has written them."""
        file = self.folder / f"output/steps/rank_{rank}.csv"
        lines = file.read_text(encoding="utf-8").split("\n")[1:-1] if file.exists() else []
        return [line.split(",")[:5] for line in lines]

    def seen(self, rank: int = 0) -> list[list[str]]:
        """The samples of each step so far."""
        lines = (self.folder / f"output/seen/rank_{rank}.txt").read_text(encoding="utf-8").splitlines()
        return [line.split() for line in lines]

    def wait_until(self, so: Callable[[], bool]) -> None:
        until = time.monotonic() + LONG
        while not so():
            assert self.process.poll() is None, self.printed()[-6000:]
            assert time.monotonic() < until, self.printed()[-6000:]
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for it; its exit code."""
        return self.process.wait(LONG)

    def kill(self, *ranks: int) -> list[int]:
        """kill -9 these workers; their process ids."""
        pids = self._worker_pids()
        assert len(pids) == self.workers
        for rank in ranks:
            os.kill(pids[rank], signal.SIGKILL)
        return [pids[rank] for rank in ranks]

    def _worker_pids(self) -> dict[int, int]:
        """By rank."""
        found = {}
        for pid in self._children():
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            variables = dict(word.split(b"=", 1) for word in words if b"=" in word)
            is_python = b"watched.py" in Path(f"/proc/{pid}/cmdline").read_bytes()  # or the `tail` of its log
            if is_python and variables.get(b"MS_ROLE") == b"MS_WORKER":
                found[int(variables[b"MS_NODE_ID"])] = pid
        return found

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in listed.split()]


def finished(folder: Path, settings: dict, workers: int = 2) -> Job:
    """A job that has run to its end without an error."""
    with Job(folder, settings, workers) as job:
        assert job.end() == 0, job.printed()[-6000:]
    return job
