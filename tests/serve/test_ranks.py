"""One server of two processes under msrun, on a CPU: replicas, which run the same steps, and their messages."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from mindformers_qwenvl.serve import channel, ranks
from mindformers_qwenvl.serve.channel import Refused, admit, enter
from mindformers_qwenvl.serve.ranks import Place, Rank0, RankGone, gather, join
from tests.support.golden import golden_set
from tests.support.lora import adapter_dir
from tests.support.ports import free_port
from tests.support.served import ask, data_uri, user
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests" / "support" / "ranks_worker.py"
KEY = b"a key of enough bytes"


@pytest.fixture(autouse=True)
def ended(monkeypatch):
    """No rank is given up because this machine stands still for a while; and what would end the process, this one with
    its other tests, makes the test fail."""
    codes: list[int] = []
    monkeypatch.setattr(channel, "HANDSHAKE", PATIENCE)
    monkeypatch.setattr(ranks, "END", PATIENCE)
    monkeypatch.setattr(ranks, "end_now", codes.append)
    yield
    assert codes == []


@pytest.fixture
def pair():
    """Two ends of a connection, before they have proved themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        first = socket.create_connection(listening.getsockname())
        second, _ = listening.accept()
    with first, second:
        yield first, second


def both(pair, admitting: bytes, entering: bytes):
    """What `admit` and `enter` give or raise."""
    found = {}

    def other() -> None:
        try:
            found["enter"] = enter(pair[1], entering, 3)
        except OSError as error:
            found["enter"] = error
            pair[1].close()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        found["admit"] = admit(pair[0], admitting)
    except OSError as error:
        found["admit"] = error
        pair[0].close()
    thread.join(PATIENCE)
    return found["admit"], found["enter"]


def test_messages_are_what_was_sent(pair):
    (first, rank), second = both(pair, KEY, KEY)
    assert rank == 3
    arrays = [np.arange(6, dtype=np.int32).reshape(2, 3), np.float32(2.5).reshape(()), np.zeros((0, 4), np.float16)]
    arrays.append(np.ones((4, 6), np.float32)[:, ::2])
    first.send({"call": "x", "blocks": [[1, 2], []], "text": "框"}, arrays)
    message, found = second.receive()
    assert message == {"call": "x", "blocks": [[1, 2], []], "text": "框"} and len(found) == 4
    for one, other in zip(arrays, found, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    with pytest.raises(TypeError):
        first.send({"call": object()})
    second.close()
    with pytest.raises(ConnectionError):
        first.receive()


def test_nobody_comes_in_without_the_key(pair):
    admitted, entered = both(pair, KEY, b"another key, as long")
    assert isinstance(admitted, Refused) and isinstance(entered, Refused)


def test_what_is_no_message(pair, monkeypatch):
    (first, _), second = both(pair, KEY, KEY)
    pair[0].sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="a message of 4,294,967,295 bytes"):
        second.receive()
    head = b'{"message": {}, "arrays": [["O", [1]]]}'
    pair[0].sendall(len(head).to_bytes(4, "big") + head + b"12345678")
    with pytest.raises(ValueError, match="an array of object, expected numbers"):
        second.receive()
    first.close()


@pytest.fixture
def port():
    return free_port(2)


@pytest.fixture
def place(monkeypatch, tmp_path, port):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda rank, size=2, patience=PATIENCE: Place(rank, size, "127.0.0.1", port, patience)


def met(place, size):
    """Ranks of `size` processes, the `Rank0` of each of the others, and a list of the ranks that are gone."""
    found: dict[int, Rank0] = {}
    gone: list[int] = []

    def come(rank: int) -> None:
        found[rank] = join(place(rank, size), None, None, print)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(1, size)]
    for thread in threads:
        thread.start()
    others = gather(place(0, size), None, None, gone.append)
    for thread in threads:
        thread.join(PATIENCE)
    return others, found, gone


def test_ranks_meet_hear_and_end(place, port, tmp_path):
    (stale := tmp_path / "cache" / "mindformers-qwenvl" / "ranks").mkdir(parents=True, mode=0o700)
    stale.parent.chmod(0o700)
    (stale / f"{port + 1}.key").write_text("left by one that was killed")
    others, found, gone = met(place, 3)
    assert others.size == 3 and not list(stale.iterdir()), "the key is not needed any more"
    others.tell({"call": "x"}, [np.arange(3)])
    for rank, rank0 in found.items():
        message, [array] = rank0.next()
        assert message == {"call": "x"} and array.tolist() == [0, 1, 2]
        rank0.answer({"made": rank})
    assert others.hear() == [{"made": 1}, {"made": 2}]
    others.tell({"call": "y"})
    found[1].answer({"made": 1})
    found[2].answer({"failed": "TypeError"})
    with pytest.raises(RuntimeError, match="rank 2 failed: TypeError"):
        others.hear()
    ending = threading.Thread(target=others.end)
    ending.start()
    for rank0 in found.values():
        while rank0.next()[0]["call"] != "end":
            pass
        rank0.leave()
    ending.join(PATIENCE)
    assert not ending.is_alive() and gone == [] and others.gone is None


def test_a_rank_that_is_gone(place):
    others, found, gone = met(place, 3)
    others.tell({"call": "x"})
    found[1].answer({"made": 1})
    found[2].leave()  # closes the connection, as the system does for a process that is killed
    with pytest.raises(RankGone, match="rank 2 is gone"):
        others.hear()
    wait_until(lambda: gone == [2])
    assert others.gone == 2
    found[1].leave()
    wait_until(lambda: others._ended[0].is_set())


def test_those_who_do_not_come_and_strangers(place, port, monkeypatch):
    monkeypatch.setattr(channel, "HANDSHAKE", 0.3)

    def stranger() -> None:
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n" + b"x" * 80):
            end = time.monotonic() + 5
            while time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port + 1), 20) as connection:
                    connection.sendall(said)
                    while connection.recv(100):
                        pass
                    break

    thread = threading.Thread(target=stranger)
    thread.start()
    with pytest.raises(TimeoutError, match=r"rank 1 of 2 did not connect to 127\.0\.0\.1 port"):
        gather(place(0, patience=2.0), None, None, print)
    thread.join(PATIENCE)
    with pytest.raises(TimeoutError, match=r"rank 0 cannot be reached at 127\.0\.0\.1 port"):
        join(place(1, patience=0.5), None, None, print)


def test_places_and_keys(tmp_path):
    worker = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "RANK_ID": "1", "MS_SCHED_PORT": "8118"}
    worker["MS_SCHED_HOST"] = "192.168.1.1"
    far = Place.of(worker)
    assert far == Place(1, 2, "192.168.1.1", 8118, 600) and not far.on_one_machine
    assert far.address(None) == ("192.168.1.1", 8119) and far.address(9000) == ("192.168.1.1", 9000)
    assert Place.of({**worker, "MS_ROLE": "MS_SCHED"}).rank is None
    assert Place.of({**worker, "MS_WORKER_NUM": "1"}) is None and Place.of({"RANK_ID": "3"}) is None
    with pytest.raises(ValueError, match="--node_rank"):
        Place.of({**worker, "RANK_ID": ""})
    with pytest.raises(ValueError, match="--ranks-key-file"):
        join(far, None, None, print)
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(ValueError, match="expected at least 16 bytes, got 5"):
        join(far, None, tmp_path / "key", print)
    with pytest.raises(OSError, match=r"rank 0 cannot listen for the other ranks on 192\.168\.1\.1 port"):
        gather(far, None, tmp_path / "key", print)


class Job:
    """`msrun ... serve` of two ranks in `folder`."""

    def __init__(self, folder: Path, model: str, join_: bool, *options: str):
        self.folder = folder
        folder.mkdir()
        self.http = free_port()
        msrun = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
        msrun += [f"--master_port={free_port(2)}", "--log_dir=logs", f"--join={join_}", "--cluster_time_out=120"]
        words = ["serve", "--model", model, "--port", str(self.http), "--rows", "1", "--max-length", "96"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*msrun, str(WORKER), str(folder), *words, "--served-name", "base", *options],
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": found, "MS_NODE_TIMEOUT": "20"},
            stdout=(folder / "msrun.log").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def log(self, rank: int) -> str:
        """What a rank has written, without two lines that MindSpore's connection to msrun's scheduler always writes."""
        file = self.folder / "logs" / f"worker_{rank}.log"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return "\n".join(line for line in lines if not line.startswith("[INFO] DISTRIBUTED"))

    def steps(self, rank: int) -> list[str]:
        return (self.folder / f"rank_{rank}" / "steps").read_text().splitlines()

    def pid(self, rank: int) -> int:
        return int((self.folder / f"rank_{rank}" / "pid").read_text())

    def codes(self) -> dict[int, int]:
        """Exit codes of the ranks that have ended on their own."""
        files = {rank: self.folder / f"rank_{rank}" / "code" for rank in (0, 1)}
        return {rank: int(file.read_text()) for rank, file in files.items() if file.exists()}

    def ready(self) -> str:
        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"http://127.0.0.1:{self.http}/health").status_code == 200
            return False

        wait_until(answers, 240)
        return f"http://127.0.0.1:{self.http}"

    def alive(self) -> list[int]:
        """Ranks whose process still exists."""
        return [rank for rank in (0, 1) if is_alive(self.pid(rank))]

    def end(self) -> None:
        for rank in (0, 1):
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid(rank), signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow  # two processes that compile a network each, three times: a minute and a half
def test_two_ranks_answer_and_end_together(checkpoint_dir, tmp_path):
    model, picture = str(checkpoint_dir("a56")), data_uri(golden_set("a56").image(0))
    job = Job(tmp_path / "one", model, True, "--adapter", f"lora={adapter_dir('a56')}")
    try:
        address = job.ready()
        first = ask(address, messages=[user("What is it?", picture)])
        assert first.status_code == 200
        text = first.json()["choices"][0]["message"]["content"]
        other = ask(address, model="lora", messages=[user("What is it?", picture)]).json()
        assert other["choices"][0]["message"]["content"] != text
        assert ask(address, messages=[user("What is it?", picture)]).json()["choices"] == first.json()["choices"]
        os.kill(job.pid(0), signal.SIGTERM)
        assert job.process.wait(60) == 0, (job.folder / "msrun.log").read_text()
        assert job.codes() == {0: 0, 1: 0}
        assert job.steps(0) == job.steps(1) and len(job.steps(0)) > 15
        assert {step.split()[0] for step in job.steps(1)} == {"vectors", "prefill", "decode", "set_adapter"}
        assert job.log(0).endswith("stopped") and job.log(1) == "", job.log(1)
    finally:
        job.end()

    job = Job(tmp_path / "two", model, False)
    try:
        address = job.ready()
        os.kill(job.pid(1), signal.SIGKILL)
        wait_until(lambda: job.alive() == [], 15)
        assert "rank 1 is gone: the server ends" in job.log(0) and job.codes() == {0: 1}
    finally:
        job.end()

    job = Job(tmp_path / "three", model, False)
    try:
        job.ready()
        os.kill(job.pid(0), signal.SIGKILL)
        wait_until(lambda: job.alive() == [], 15)
        assert "rank 0 is gone" in job.log(1) and job.codes() == {1: 1}
    finally:
        job.end()
