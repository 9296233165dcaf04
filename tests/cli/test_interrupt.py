"""Ctrl-C: in the imports of a command, in the middle of an answer, while the network computes, and at the prompt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set
from tests.support.pictures import draw


def started(*words):
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("command", ["predict", "chat", "evaluate"])
def test_in_the_imports_it_ends_with_a_word_and_130(command, tmp_path, checkpoint_dir):
    """MindSpore takes seconds to import; cut short in it, Python's own end aborts."""
    words = ["--model", str(checkpoint_dir("a56"))]
    if command == "predict":
        words.append("Hello")
    elif command == "evaluate":
        draw(tmp_path / "a.jpg")
        (tmp_path / "q.jsonl").write_text('{"question_id": 1, "image": "a.jpg", "question": "what?", "answer": "a"}\n')
        words += ["--task", "gqa", "--data", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "scores")]
    process = started("-X", "importtime", "-m", "mindformers_qwenvl", command, *words)
    seen = ""
    for line in process.stderr:  # in the middle of MindSpore's modules, on a machine of any speed
        seen += line
        if "mindspore" in line:
            break
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=300)
    said = [line for line in rest.splitlines() if line and not line.startswith("import time:")]
    assert (process.returncode, out, said) == (130, "", ["interrupted"]), seen[-2000:] + rest[-2000:]


# The command, whose answer goes no further than its fourth piece. After some more, MindSpore would compile another
# graph, and complain about a Ctrl-C in it; and soon after that the answer would be over.
IN_THE_MIDDLE = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
import sys, time
from mindformers_qwenvl.cli import _interrupt, main, predict
_interrupt.GRACE = 200.0
on_screen, pieces = predict.on_screen, []
def shown(text):
    pieces.append(text)
    while len(pieces) > 4:
        time.sleep(0.01)
    return on_screen(text)
predict.on_screen = shown
sys.exit(main())
"""


def test_an_answer_comes_piece_by_piece_and_in_the_middle_it_ends_with_a_word_and_130(checkpoint_dir):
    golden = golden_set("a56")
    expected = Vocabulary.from_file(golden.vocab_file).decode(golden.arrays["greedy.text"][:16].tolist()).strip()
    words = ["predict", "--model", str(checkpoint_dir("a56")), "--greedy", "--max-new-tokens", "1800"]
    process = started("-c", IN_THE_MIDDLE, *words, "Hello, who are you? 你好")
    first = b""
    while len(first) < 5 and (piece := os.read(process.stdout.fileno(), 1 << 16)):
        first += piece
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=300)
    shown = first.decode() + rest
    assert (process.returncode, err) == (130, "interrupted\n"), (shown[-2000:], err[-2000:])
    assert shown.endswith("\n") and shown.count("\n") == 1
    assert 4 < len(shown) - 1 < len(expected) and expected.startswith(shown[:-1])


HELD = """
import os, signal, sys, time
from mindformers_qwenvl.cli._interrupt import Interrupts, held_back

def press():
    os.kill(os.getpid(), signal.SIGINT)

with held_back(), Interrupts() as interrupts:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interrupts.noted():
            press()
            while not interrupts.is_set():
                time.sleep(0.01)
        interrupts.clear()
        print("noted")
        try:
            with interrupts.allowed():
                press()
                time.sleep(200)
        except KeyboardInterrupt:
            print("at the prompt", interrupts.is_set())
        press()
        for _ in range(2000):
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("ended", flush=True)
    assert interrupts.is_set()
press_again = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("blocked" if press_again else "free", flush=True)
"""

DEAF = """
import os, signal, time
from mindformers_qwenvl.cli import _interrupt
_interrupt.GRACE = 0.5
with _interrupt.held_back(), _interrupt.Interrupts() as interrupts:
    interrupts.last_words = lambda: print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    while True:  # as code that catches everything, and C++ that is computing
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass
"""


def test_it_is_noted_while_the_network_computes_and_ends_what_listens():
    out, err = started("-c", HELD).communicate(timeout=300)
    assert out == "noted\nat the prompt False\nended\nfree\n", err


def test_who_does_not_hear_it_is_ended():
    process = started("-c", DEAF)
    began = time.monotonic()
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "last words\n"), err
    assert time.monotonic() - began < 200


def test_nothing_with_threads_is_imported_before_it_is_held_back():
    code = "import sys, mindformers_qwenvl.__main__; print({'numpy', 'mindformers_qwenvl.cli'} & {*sys.modules})"
    assert started("-c", code).communicate(timeout=300)[0] == "set()\n"
