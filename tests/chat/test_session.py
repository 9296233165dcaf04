"""A conversation in the terminal, line by line, on set a56."""

from __future__ import annotations

import contextlib
import threading

import pytest

from mindformers_qwenvl.chat.answer import Chat
from mindformers_qwenvl.cli.chat import Session
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from tests.support.golden import golden_set

HELLO = "Hello, who are you? 你好"
PICTURE = str(golden_set("a56").image(0))


@pytest.fixture
def session(network, tokenizer):
    written = []
    talk = Chat(network, tokenizer, keep_pictures=2, do_sample=False, max_new_tokens=6)
    session = Session(talk, SYSTEM_MESSAGE, written.append)
    session.said = lambda: ["".join(written), written.clear()][0]
    return session


def test_history_pictures_and_reset(session, network, tokenizer):
    assert session.take(HELLO)
    first, history = network.chat(tokenizer, HELLO, do_sample=False, max_new_tokens=6)
    assert session.said() == first + "\n" and session.history == history
    assert session.take(f"/image '{PICTURE}'") and session.said() == "(picture 1 of the next message)\n"
    assert session.take("//compare") and session.images == []
    query = [{"image": PICTURE}, {"text": "/compare"}]
    second, history = network.chat(tokenizer, query, history, do_sample=False, max_new_tokens=6)
    assert session.said() == second + "\n" and session.history == history
    assert session.take("/reset") and session.history == []
    session.said()
    assert session.take(HELLO) and session.said() == first + "\n"
    assert (session.talk.vectors.encoded, session.talk.vectors.found) == (1, 0)
    session.take(f"/image {PICTURE}")
    session.said()
    assert session.take("//compare") and session.said() == second + "\n", "the same answer, and no second encoding"
    assert (session.talk.vectors.encoded, session.talk.vectors.found) == (1, 1)


def test_commands(session):
    assert session.take("/help") and "/image PATH" in session.said()
    assert session.take("/img x") and session.said() == "unknown command /img; /help lists the commands\n"
    assert session.take("/image") and "which picture?" in session.said()
    assert session.take("   ") and session.said() == ""
    assert not session.take("/exit") and not session.take("/quit")
    assert session.history == []


def test_what_fails_leaves_the_conversation_as_it_was(session):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        session.take("/image nowhere.png")
    assert session.images == []
    session.take(f"/image {PICTURE}")
    with pytest.raises(ValueError, match="the network takes 8192"):
        session.take("x " * 9000)
    assert session.images == [PICTURE] and session.history == []


def test_an_interrupted_answer_is_no_part_of_the_conversation(network, tokenizer):
    class Stopped(threading.Event):
        noted = staticmethod(contextlib.nullcontext)

    written, interrupts = [], Stopped()
    talk = Chat(network, tokenizer, do_sample=False, max_new_tokens=4000)

    def write(text):
        written.append(text)
        interrupts.set()

    session = Session(talk, SYSTEM_MESSAGE, write, interrupts)
    session.take(HELLO)
    assert written[-1] == "(interrupted; left out of the conversation)\n" and len(written) < 6
    assert session.history == []
