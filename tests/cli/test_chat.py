"""`mindformers-qwenvl chat` in a process of its own, its input from a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.data.conversation import reply_text
from mindformers_qwenvl.data.vocabulary import Vocabulary
from tests.golden import golden_set

GOLDEN = golden_set("a56")


def talk(model, said, *options):
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "mindformers_qwenvl", "chat", "--model", str(model), "--greedy", *options]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(words, input=said, capture_output=True, text=True, encoding="utf-8", env=environment)


def golden_reply(name, tokens):
    return reply_text(Vocabulary.from_file(GOLDEN.vocab_file), GOLDEN.arrays[f"greedy.{name}"][:tokens])


def test_a_conversation_through_a_pipe(checkpoint_dir):
    said = f"Hello, who are you? 你好\n/reset\n/image {GOLDEN.image(0)}\nWhat is it?\n/image nowhere.png\n/exit\nnever"
    done = talk(checkpoint_dir("a56"), said, "--max-new-tokens", "8")
    first, second = golden_reply("text", 8), golden_reply("one_image", 8)
    assert done.stdout == f"{first}\n(a new conversation)\n(picture 1 of the next message)\n{second}\n"
    assert done.stderr == "FileNotFoundError: image nowhere.png: no such file\n"
    assert done.returncode == 1  # nobody sat there to see it
    assert not Path("output").exists()


def test_bad_usage_and_a_missing_model(checkpoint_dir, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chat"])
    assert ended.value.code == 2
    assert main(["chat", "--model", "nowhere"]) == 1
    assert "--model nowhere: no such directory" in capsys.readouterr().err


def test_help_lists_what_can_be_typed(capsys):
    with pytest.raises(SystemExit):
        main(["chat", "--help"])
    out = capsys.readouterr().out
    assert "/image PATH" in out and "/reset" in out and "mindformers-qwenvl chat --model Qwen-VL-Chat" in out
