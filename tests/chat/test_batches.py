"""Rows of questions: reading them, keeping answers, and answering in batches on set a56."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.chat.batches import answer_questions, cache_blocks, prepare
from mindformers_qwenvl.chat.journal import Journal
from mindformers_qwenvl.chat.questions import BadQuestion, Question, batches_by_size, read_questions
from mindformers_qwenvl.generation.prompt import Pictures
from mindformers_qwenvl.generation.settings import settings_for
from mindformers_qwenvl.pictures.images import ImageTransform
from tests.support.golden import golden_set
from tests.support.waiting import wait_until

GOLDEN = golden_set("a56")
HELLO = "Hello, who are you? 你好"


def lines(*records):
    text = "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records)
    Path("in.jsonl").write_text(text, encoding="utf-8")
    return read_questions("in.jsonl")


def test_every_form_of_a_question():
    assert lines(
        {"id": "a", "images": ["1.png", "2.png"], "text": "Compare."},
        {"id": 7, "image": "1.png", "question": "What?", "system": "Be brief.", "history": [["q", "a"]]},
        "",
        {"query": [{"image": "1.png"}, {"text": "t"}]},
        {"query": "<img>1.png</img>t"},
        {"image": "1.png"},
    ) == [
        Question("a", [{"image": "1.png"}, {"image": "2.png"}, {"text": "Compare."}]),
        Question(7, [{"image": "1.png"}, {"text": "What?"}], (["q", "a"],), "Be brief."),
        Question(4, [{"image": "1.png"}, {"text": "t"}]),
        Question(5, "<img>1.png</img>t"),
        Question(6, [{"image": "1.png"}]),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("1", "expected a JSON object, got 1"),
        ({"id": [1], "text": "x"}, "id must be a text or a whole number"),
        ({"id": True, "text": "x"}, "id must be a text or a whole number, got True"),
        ({"id": "x"}, "expected either query, or text"),
        ({"id": "x", "text": "t", "query": "t"}, "expected either query, or text"),
        ({"id": "x", "imgs": "a", "text": "t"}, "unknown keys imgs"),
        ({"id": "x", "text": "t", "question": "t"}, "both text and question"),
        ({"id": "x", "image": "t", "images": "t"}, "both image and images"),
        ({"id": "x", "images": [1], "text": "t"}, "images must be a list of paths"),
        ({"id": "x", "text": 1}, "text must be a text, got 1"),
        ({"id": "x", "query": 1}, "query must be a text or a list"),
        ({"id": "x", "text": "t", "history": "h"}, "history must be a list"),
    ],
)
def test_a_line_that_is_no_question_says_why_and_takes_no_other_with_it(line, message):
    bad, good = lines(line, {"id": "good", "text": "t"})
    assert isinstance(bad, BadQuestion) and message in bad.error and "line 1" in bad.error
    assert good == Question("good", [{"text": "t"}])


def test_a_json_list_is_refused_as_a_whole():
    with pytest.raises(ValueError, match="is a JSON list; JSON Lines are expected"):
        lines("[1]", {"id": "good", "text": "t"})


def test_ids_that_are_the_same_are_refused():
    with pytest.raises(ValueError, match="lines 1 and 3 have the same id '2'"):
        lines({"id": 2, "text": "t"}, "", {"id": "2", "text": "u"})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 500)), max_size=40), st.integers(1, 9))
def test_batches_hold_every_row_once_in_order_of_size(sizes, batch_size):
    batches = list(batches_by_size(sizes, batch_size))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(sizes)))
    assert [sizes[index] for index in order] == sorted(sizes, reverse=True)
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_the_journal_goes_on_where_it_was():
    with Journal("out.jsonl") as journal:
        journal.write({"id": "a", "answer": "猫"})
        journal.write({"id": 2, "error": "no such file"})
        journal.write({"id": 3, "answer": ""})
    with Path("out.jsonl").open("ab") as file:
        file.write('{"id": "torn", "answer": "猫'.encode()[:-1])
    with Journal("out.jsonl") as journal:
        assert journal.answered == {"a", "3"}
        journal.write({"id": 2, "answer": "now"})
    records = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records == [{"id": "a", "answer": "猫"}, {"id": 3, "answer": ""}, {"id": 2, "answer": "now"}]
    assert [path.name for path in Path().iterdir() if "jsonl" in path.name] == ["out.jsonl"]


@pytest.mark.parametrize("content", ["important notes", '{"model": 1}\n', "[]\n", '{"id": 1, "text": "t"}\n', "\n"])
def test_a_file_of_something_else_is_left_alone(content):
    Path("notes").write_text(content)
    with pytest.raises(ValueError, match="line 1 is not an answer of this command"):
        Journal("notes")
    assert Path("notes").read_text() == content


WRITER = """
import time
from mindformers_qwenvl.chat.journal import Journal
with Journal("out.jsonl") as journal:
    print("ready", flush=True)
    number = len(journal.answered)
    for number in range(number, number + 500):  # a disk is not filled if nobody comes to kill it
        journal.write({"id": number, "answer": "猫" * 20000})
    time.sleep(600)
"""


def test_killed_at_any_time_no_answer_is_lost_or_written_twice():
    answered, journal = 0, Path("out.jsonl")
    for delay in (0.05, 0.02, 0.1):
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert writer.stdout.readline() == b"ready\n"
        wait_until(lambda before=answered: journal.read_bytes().count(b"\n") > before)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        with Journal(journal) as opened:
            assert len(opened.answered) > answered
            answered = len(opened.answered)
    records = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == list(range(answered))
    assert all(record["answer"] == "猫" * 20000 for record in records)


@pytest.fixture
def ask(network, tokenizer):
    """Records of rows, by id."""

    def answers(rows, batch_size=2, seed=0, **changes):
        config = settings_for(network, **{"max_new_tokens": 6, **changes})
        prepared, failed = prepare(tokenizer, rows, config, seq_length=network.config.seq_length)
        pictures = Pictures(ImageTransform(56), GOLDEN.directory / "images")
        batches = answer_questions(network, tokenizer, pictures, prepared, config, batch_size=batch_size, seed=seed)
        return {record["id"]: record for batch in [failed, *batches] for record in batch}

    return answers


def test_an_answer_does_not_depend_on_its_batch(ask):
    rows = [Question("a", HELLO), Question("b", "Name a number.")]
    together = ask(rows, top_p=0.95)
    assert together == {**ask(rows[1:], top_p=0.95), **ask(rows[:1], top_p=0.95)}
    assert together["a"].keys() == {"id", "answer", "finish", "prompt_tokens", "new_tokens"}
    assert together["a"]["finish"] == "length" and together["a"]["new_tokens"] == 6
    assert ask(rows[:1], seed=1, top_p=0.95)["a"]["answer"] != together["a"]["answer"]
    assert ask([Question("other", HELLO)], top_p=0.95)["other"]["answer"] != together["a"]["answer"]


def test_rows_that_fail_are_named_and_the_others_answered(ask):
    rows = [
        Question("good", HELLO),
        Question("missing", "<img>9.png</img>?"),
        Question("outside", "<img>../golden.json</img>?"),
        Question("unclosed", "<img>9.png"),
        Question("long", "x " * 9000),
        BadQuestion("bad", "line 6 is not JSON"),
    ]
    records = ask(rows, batch_size=6, do_sample=False)
    assert records.keys() == {row.id for row in rows}
    assert records["good"] == ask(rows[:1], do_sample=False)["good"]
    for name, message in {
        "missing": "FileNotFoundError: image",
        "outside": "ImageRefusedError: ",
        "unclosed": "ValueError: unclosed image tag",
        "long": "the network takes 8192",
        "bad": "line 6 is not JSON",
    }.items():
        assert message in records[name]["error"] and "\n" not in records[name]["error"]


def test_a_batch_that_the_network_cannot_do_is_done_row_by_row(ask, network, monkeypatch):
    stock = network.generate

    def generate(*args, input_ids, **kwargs):
        if len(input_ids) > 1 or (input_ids == 1014).any():
            raise RuntimeError("\n  out of memory\n\n- C++ call stack")
        return stock(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(network, "generate", generate, raising=False)
    records = ask([Question("a", HELLO), Question("b", f"<img>0.png</img>{HELLO}")], do_sample=False)
    assert records["a"]["new_tokens"] == 6
    assert records["b"] == {"id": "b", "error": "RuntimeError: out of memory"}


def test_raw_questions_are_continued(ask, network):
    record = ask([Question("a", HELLO)], chat_format="raw", do_sample=False)["a"]
    assert record["prompt_tokens"] < ask([Question("a", HELLO)], do_sample=False)["a"]["prompt_tokens"] - 20
    assert record["answer"]


def test_the_cache_is_as_large_as_the_largest_batch_needs(tokenizer, network):
    rows = [Question(number, "word " * number) for number in range(1, 9)]
    config = settings_for(network, max_new_tokens=10, max_window_size=64)
    prepared, _ = prepare(tokenizer, rows, config, seq_length=64)
    sizes = sorted((len(one.prompt) for one in prepared), reverse=True)
    blocks = cache_blocks(prepared, 3, seq_length=64, max_new_tokens=10, block_size=16)
    assert blocks == sum(-(-min(size + 10, 64) // 16) for size in sizes[:3]) + 1
    assert cache_blocks([], 3, seq_length=64, max_new_tokens=10, block_size=16) == 1
