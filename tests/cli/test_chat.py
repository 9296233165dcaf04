"""`mindformers-qwenvl chat` in a process of its own, its input from a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.text.reply import chat_reply
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set

GOLDEN = golden_set("a56")


def python(*words, said=None):
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *words]
    return subprocess.run(command, input=said, capture_output=True, encoding="utf-8", env=environment, timeout=300)


def golden_reply(name, tokens):
    return chat_reply(Vocabulary.from_file(GOLDEN.vocab_file), GOLDEN.arrays[f"greedy.{name}"][:tokens])


def test_a_conversation_through_a_pipe(checkpoint_dir):
    said = f"Hello, who are you? 你好\n/reset\n/image {GOLDEN.image(0)}\nWhat is it?\n/image nowhere.png\n/exit\nnever"
    words = ["chat", "--model", str(checkpoint_dir("a56")), "--greedy", "--max-new-tokens", "8"]
    done = python("-m", "mindformers_qwenvl", *words, said=said)
    first, second = golden_reply("text", 8), golden_reply("one_image", 8)
    assert done.stdout == f"{first}\n(new conversation)\n(picture 1 of the next message)\n{second}\n"
    assert done.stderr == "FileNotFoundError: image nowhere.png: no such file\n"
    assert done.returncode == 1  # nobody sat there to see it
    assert not Path("output").exists()


def test_bad_usage_and_a_missing_model(checkpoint_dir, usage_error, capsys):
    assert usage_error("chat")
    assert main(["chat", "--model", "nowhere"]) == 1
    assert "--model nowhere: no such directory" in capsys.readouterr().err


def test_help_lists_what_can_be_typed(help_text):
    out = help_text("chat")
    assert "/image PATH" in out and "/reset" in out and "mindformers-qwenvl chat --model Qwen-VL-Chat" in out
