"""Locks, and processes that die while they hold one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from mindformers_qwenvl.files import lock_file, locked, replacing


def test_a_lock_keeps_others_out_and_goes_with_its_block(tmp_path):
    lock = lock_file(tmp_path / "a.txt")
    assert lock == tmp_path.resolve() / ".a.txt.lock"
    with locked(lock, "busy"):
        with pytest.raises(ValueError, match="a is in use"), locked(lock, "a is in use"):
            pass
        assert lock.exists()
    assert not lock.exists()
    with locked(lock, "busy"):
        pass


def test_a_lock_of_a_dead_process_keeps_nobody_out(tmp_path):
    lock = tmp_path / "a.lock"
    script = (
        "import os, pathlib, sys\nfrom mindformers_qwenvl.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'busy'): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(lock)], check=True)
    assert lock.exists()
    with locked(lock, "busy"):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """Nobody is kept out, and nothing is taken for a leftover."""

    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "a.txt.1-0.tmp").touch()
    with locked(tmp_path / "a.lock", "busy"), replacing(tmp_path / "a.txt", "w") as file:
        file.write("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "a.txt.1-0.tmp"]


WORKER = """
import os, sys, time
from mindformers_qwenvl.files import locked, replacing
from pathlib import Path
with locked(Path("lock"), "busy"), replacing("out") as file:
    file.write(b"half")
    file.flush()
    if not os.fork():
        print("ready", flush=True)  # said by the child: right after the fork it still holds what its parent holds
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_worker_that_outlives_its_parent_holds_no_lock(tmp_path):
    """The next command comes at once: what the killed one left is removed, and its lock keeps nobody out."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    try:
        assert len(list(tmp_path.glob("out.*.tmp"))) == 1
        with locked(tmp_path / "lock", "busy"), replacing(tmp_path / "out") as file:
            file.write(b"whole")
        assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out").read_bytes() == b"whole"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
