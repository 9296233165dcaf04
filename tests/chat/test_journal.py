"""The journal of answers: one writer at a time, and torn last lines of any length. No MindSpore."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.chat.journal import Journal, journal_lines

ANSWER = {"id": "a", "answer": "Yes."}


@pytest.mark.parametrize("kept", range(len(json.dumps(ANSWER)) + 1))
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(kept):
    line = json.dumps({"id": "b", "answer": "No."}).encode()
    Path("out.jsonl").write_bytes(json.dumps(ANSWER).encode() + b"\n" + line[:kept])
    assert [record for _, record in journal_lines(Path("out.jsonl"))] == [ANSWER, None][: 1 + bool(kept)]
    with Journal("out.jsonl") as journal:
        assert journal.answered == {"a"}
    assert Path("out.jsonl").read_text() == json.dumps(ANSWER) + "\n"


@pytest.mark.parametrize("content", [b"x", b"{x", b'{"ie', b'["id": "b"', b"notes\n", b"[" * 100_000 + b"\n"])
def test_something_else_is_left_as_it_is(content):
    Path("out.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="not an answer of this command"):
        Journal("out.jsonl")
    assert Path("out.jsonl").read_bytes() == content and not Path(".out.jsonl.lock").exists()


WRITER = """
import sys
from mindformers_qwenvl.chat.journal import Journal
with Journal(sys.argv[1]) as journal:
    journal.write({"id": "b", "answer": "No."})
    print("open", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("name", ["out.jsonl", "link.jsonl"])
def test_two_processes_cannot_write_into_one_file(name):
    Path("link.jsonl").symlink_to("out.jsonl")
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, "out.jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=f"{name}: another process is writing answers into it"):
            Journal(name)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
        other.stdin.close()
        other.stdout.close()
    with Journal(name) as journal:  # a killed process releases it
        assert journal.answered == {"b"}
        journal.write(ANSWER)
    assert [json.loads(line)["id"] for line in Path("out.jsonl").read_text().splitlines()] == ["b", "a"]
    assert not Path(".out.jsonl.lock").exists()


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "pipe"])
def test_answers_go_into_regular_files(path):
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        Journal(path)
