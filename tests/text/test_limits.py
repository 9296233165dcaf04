"""Texts that would take minutes, or end the process: refused, or read in linear time."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.grounding import parse
from mindformers_qwenvl.text.layout import make_context
from mindformers_qwenvl.text.limits import LONGEST_MARKS, LONGEST_SPACE
from mindformers_qwenvl.text.list_format import restore_image_paths, to_list_format
from mindformers_qwenvl.text.tags import tag_pairs
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set
from tests.support.linear import assert_linear


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=16)


@contextmanager
def quick(seconds=10.0):
    """A generous bound on processor time: the quadratic forms took over 20 s."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


@pytest.mark.parametrize("space", [" ", "\n", "\u3000", " \t"])
def test_white_space_without_end_is_refused(vocabulary, space):
    with quick(), pytest.raises(ValueError, match="more than 200,000 characters of white space in a row"):
        vocabulary.encode_text(f"a{space * 1_000_000}b")


def test_white_space_up_to_the_bound_is_encoded(vocabulary):
    text = "a" + " " * LONGEST_SPACE + "b"
    assert vocabulary.decode(vocabulary.encode_text(text * 2)) == text * 2


def test_marks_without_end_are_refused(vocabulary):
    text = "a" + "\u0301\u0323" * 200_000
    with quick(), pytest.raises(ValueError, match="more than 2,000 combining characters in a row"):
        vocabulary.encode_text(text)
    with quick(), pytest.raises(ValueError, match="more than 2,000 combining characters"):
        to_list_format(text)


def test_marks_up_to_the_bound_are_encoded(vocabulary):
    text = ("a" + "\u0323\u0301" * (LONGEST_MARKS // 2)) * 3
    assert vocabulary.encode_text(text)


@pytest.mark.parametrize("piece", ["<img>", "<box>", "<img><ref>", "<ref><img>", "<img></ref>", "<img>a</img>"])
def test_tags_without_end_are_scanned_in_linear_time(piece):
    def scan(count):
        parse(piece * count)
        assert sum(1 for _ in tag_pairs(piece * count, across_starts=True)) >= 1

    assert_linear(scan, 100_000, 5)  # quadratic, "<img>" alone took 6 s


def test_unclosed_tags_are_the_same_as_before():
    pairs = [(pair.kind, pair.content) for pair in tag_pairs("<img>a<ref>b<img>c</ref><box>d</box>")]
    assert pairs == [("image", None), ("ref", None), ("image", None), ("box", "d")]


def test_many_paths_are_restored_in_linear_time():
    with quick():
        restore_image_paths("<img></img>" * 200_000, ["a" * 100] * 200_000)


def test_a_long_history_is_encoded_once(vocabulary):
    encoded = []
    tokenizer = vocabulary.with_image_slots(16)
    original = tokenizer.encode_with_images
    tokenizer.encode_with_images = lambda *args, **kwargs: encoded.append(args[0]) or original(*args, **kwargs)
    history = [(f"What is number {number}?", "It is a number. " * 5) for number in range(1000)]
    try:
        prompt = make_prompt(tokenizer, "And now?", history, max_window_size=10**9, longest=1000)
    finally:
        del tokenizer.encode_with_images
    assert 900 < len(prompt) <= 1000 and len(encoded) < 200


@pytest.mark.parametrize("longest", [1, 60, 100, 101, 150, 10_000])
def test_the_oldest_exchanges_are_left_out_as_when_each_was_tried(vocabulary, longest):
    history = [(f"q{number} <img>a.png</img>", None if number == 2 else "r" * number) for number in range(6)]
    past = list(history)
    while past and len(make_context(vocabulary, "q", past, "s")[1]) > longest:
        past = past[1:]
    text, encoded = make_context(vocabulary, "q", history, "s", longest=longest)
    assert (text, list(encoded.ids)) == (lambda t, e: (t, list(e.ids)))(*make_context(vocabulary, "q", past, "s"))


def test_a_panic_of_tiktoken_is_an_error_of_this_text_alone(vocabulary, monkeypatch):
    """Its regular expressions give up on a million spaces; the bound on white space is removed to reach that."""
    monkeypatch.setattr("mindformers_qwenvl.text.limits.LONGEST_SPACE", 10**9)
    for text in (" " * 1_000_000, " " * 1_000_000 + "<|endoftext|>"):
        with pytest.raises(ValueError, match=r"cannot be tokenised: .*StackOverflow|Regex error while tokenizing"):
            vocabulary.encode_text(text)
    assert vocabulary.decode(vocabulary.encode_text("and the next one")) == "and the next one"
