"""The command in a separate process: adapters as models, keys, signals, logs; and the commands that ask a server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.golden import golden_set
from tests.support.lora import adapter_dir, copy
from tests.support.served import ask, data_uri, events, get, post, user
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
PICTURE = data_uri(golden_set("a56").image(0))
KEY = "a-key"


class Server:
    """`mindformers-qwenvl serve` and what it says on standard error. errors: a file for that instead."""

    def __init__(self, *options: str, errors=None, folder: Path | None = None, **environment: str):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mindformers_qwenvl", "serve", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=errors or subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self.lines: list[str] = []
        self.address = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        if errors is None:
            self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if line.startswith("ready: "):
                self.address = line.split()[1].rstrip(",").removesuffix("/v1")
                self._ready.set()
        self._ready.set()

    def ready(self, seconds: float = 600) -> str:
        assert self._ready.wait(seconds) and self.address, self.lines
        return self.address

    def said(self) -> str:
        """Everything that it has written, once it has ended."""
        self._reader.join(PATIENCE)
        return "\n".join(self.lines)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(checkpoint_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "keys").write_text(f"other\n{KEY}\n", encoding="utf-8")
    second = copy(folder / "second", lora_alpha=64)
    words = ["--model", str(checkpoint_dir("a56")), "--rows", "2", "--max-length", "96", "--served-name", "base"]
    words += ["--adapter", f"one={adapter_dir('a56')}", "--adapter", f"two={second}", "--grace", "100"]
    made = Server(*words, "--api-key-file", str(folder / "keys"))
    yield made
    made.end()


@pytest.fixture
def client(server):
    from openai import OpenAI

    return OpenAI(base_url=f"{server.ready()}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE)


def test_adapters_are_models_and_never_share_a_batch(client):
    names = [model.id for model in client.models.list().data]
    assert names == ["base", "one", "two"]

    def text(name: str, number: int) -> str:
        messages = [user(f"Question {number}", PICTURE)]
        made = client.chat.completions.create(model=name, messages=messages, temperature=0, max_tokens=6)
        return made.choices[0].message.content

    asked = [(name, number) for number in range(3) for name in names]
    alone = [text(*one) for one in asked]
    assert len({answer for (_, number), answer in zip(asked, alone, strict=True) if number == 0}) == 3
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(lambda one: text(*one), asked)) == alone


def run(*words: str, said: str | None = None, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "mindformers_qwenvl", *words]
    given = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, input=said, capture_output=True, encoding="utf-8", env=given, timeout=300)


def test_chat_with_a_server(server, client):
    picture = golden_set("a56").image(0)
    first = client.chat.completions.create(
        model="one", messages=[user("What?", PICTURE)], temperature=0, max_tokens=6, stream=False
    )
    said = f"/image {picture}\nWhat?\n/image nowhere.png\n"
    words = ["chat", "--url", f"{server.ready()}/v1", "--model", "one", "--greedy", "--max-new-tokens", "6"]
    done = run(*words, said=said, OPENAI_API_KEY=KEY)
    assert done.stdout == f"(picture 1 of the next message)\n{first.choices[0].message.content}\n"
    assert done.stderr == "FileNotFoundError: image nowhere.png: no such file\n" and done.returncode == 1
    refused = run(*words, said="Hello\n")
    assert refused.returncode == 1 and "answers 401: no API key was given" in refused.stderr
    nobody = run("chat", "--url", "http://127.0.0.1:9/v1", said="Hello\n")
    assert nobody.returncode == 1 and "does not answer" in nobody.stderr


def test_evaluate_a_server(server, tmp_path):
    rows = [
        {"question": f"What is {number}?", "question_id": number, "image": "0.png", "answers": ["x"]}
        for number in range(5)
    ]
    rows[3]["image"] = "broken.png"
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "0.png").write_bytes(golden_set("a56").image(0).read_bytes())
    data = tmp_path / "held_out.json"
    records = [
        {
            "id": str(row["question_id"]),
            "conversations": [
                {"from": "user", "value": f"Picture 1: <img>{row['image']}</img>\n{row['question']}"},
                {"from": "assistant", "value": "x"},
            ],
        }
        for row in rows
    ]
    data.write_text(json.dumps(records), encoding="utf-8")
    words = ["evaluate", "--task", "vqa", "--data", str(data), "--base-url", f"{server.ready()}/v1", "--quiet"]
    words += ["--output", str(tmp_path / "out"), "--batch-size", "3", "--max-new-tokens", "4"]
    done = run(*words, OPENAI_API_KEY=KEY)
    assert done.returncode == 1, done.stderr  # one picture is broken
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [str(number) for number in range(5)]
    assert ["answer" in answer for answer in answers] == [True, True, True, False, True]
    text = {"type": "text", "text": "What is 0?"}
    parts = [{"type": "text", "text": "Picture 1:"}, {"type": "image_url", "image_url": {"url": PICTURE}}, text]
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert answers[0]["answer"] == ask_with_key(server, [system, {"role": "user", "content": parts}], 4)
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["served_model"] == "base" and settings["model"].startswith("http://")


def ask_with_key(server, messages, most):
    body = {"model": "base", "messages": messages, "temperature": 0, "max_tokens": most}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = post(f"{server.ready()}/v1/chat/completions", json=body, headers=headers)
    return answer.json()["choices"][0]["message"]["content"]


def test_sigterm_lets_answers_end(server):
    """The last test of this server."""
    address, headers = server.ready(), {"Authorization": f"Bearer {KEY}"}
    body = {"model": "base", "temperature": 0, "max_tokens": 60, "logit_bias": {"65": 100}, "stream": True}
    body["messages"] = [user("Long")]
    count = 100  # two rows: the others wait, for a quarter of a minute if nobody ended it

    def all_are_here() -> bool:
        state = client.get("/health").json()
        done = sum(response.done() for response in asked)
        return state["waiting"] >= 8 and state["waiting"] + state["running"] + done == count

    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=address, headers=headers, limits=limits, timeout=PATIENCE) as client,
        ThreadPoolExecutor(count) as pool,
    ):
        asked = [pool.submit(client.post, "/v1/chat/completions", json=body) for _ in range(count)]
        wait_until(all_are_here)
        server.process.send_signal(signal.SIGTERM)
        ends = sorted(str(events(response.result())[-1])[:30] for response in asked)
    told = [end for end in ends if "error" in end]
    assert len(told) >= 4 and ends.count("[DONE]") >= 1 and len(told) + ends.count("[DONE]") == count, ends
    assert server.process.wait(PATIENCE) == 0
    text = server.said()
    assert "compiling graph 1 of 5: vision tower" in text and text.endswith("stopped")
    assert "Question" not in text and KEY not in text
    with pytest.raises(httpx.ConnectError):
        get(f"{address}/health")


def test_bad_options_and_a_second_ctrl_c(checkpoint_dir, tmp_path):
    from mindformers_qwenvl.cli import main

    model = ["--model", str(checkpoint_dir("a56"))]
    for words in (["--rows", "0"], ["--port", "70000"], ["--adapter", "nameless"]):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *model, *words])
        assert ended.value.code == 2
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    broken = run("serve", *model, "--api-key-file", str(tmp_path / "empty"))
    assert broken.returncode == 1 and "there are no keys in it" in broken.stderr
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-X", "importtime", "-m", "mindformers_qwenvl", "serve", "--port", "0", *model]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    try:
        while "mindspore" not in started.stderr.readline():  # more than a pipe holds: it waits for the reader
            assert started.poll() is None
        started.send_signal(signal.SIGINT)  # while it loads: at once
        assert started.wait(PATIENCE) == 128 + signal.SIGINT
    finally:
        started.kill()
        started.wait()
        started.stderr.close()


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Path | None]:
    """A file system without a free byte; None where this user must not mount one."""
    folder.mkdir()
    size = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(["mount", *size], capture_output=True).returncode:
        yield None
        return
    try:
        with pytest.raises(OSError, match="No space left"), (folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow  # two servers, each of which compiles its graphs: half a minute
def test_killed_and_started_again_on_a_full_disk(checkpoint_dir, tmp_path):
    """The port is free at once and nothing is left behind; the second server has nowhere to write its log."""
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    cache.mkdir(mode=0o700)
    words = ["--model", str(checkpoint_dir("a56")), "--rows", "1", "--max-length", "64", "--served-name", "base"]
    own = {"TMPDIR": str(work), "XDG_CACHE_HOME": str(cache)}
    question = {"messages": [user("What?", PICTURE)], "max_tokens": 6}
    first = Server(*words, folder=work, **own)
    try:
        address = first.ready()
        answer = ask(address, **question).json()["choices"]
        long = {**question, "model": "base", "max_tokens": 30, "logit_bias": {"65": 100}, "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=long, timeout=60) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            first.process.kill()
            with pytest.raises(httpx.HTTPError):
                list(lines)
        first.process.wait()
    finally:
        first.end()
    assert list(work.iterdir()) == [], "a killed server leaves no file behind"

    port = address.rpartition(":")[2]
    with full_disk(tmp_path / "full") as full, Path("/dev/full").open("w") as nowhere:
        if full is not None:
            own["LOCAL_DEFAULT_PATH"] = str(full)
        second = Server(*words, "--port", port, errors=nowhere, folder=work, **own)
        try:
            wait_until(lambda: second.process.poll() is not None or is_healthy(address), 600)
            for _ in range(3):
                assert ask(address, **question).json()["choices"] == answer
            assert ask(address, messages=[user("a", "file:///etc/passwd")]).status_code == 400
            assert ask(address, **question).json()["choices"] == answer
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(PATIENCE) == 0
        finally:
            second.end()


def is_healthy(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return get(f"{address}/health").status_code == 200
    return False
