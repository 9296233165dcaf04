"""Tokens to text: nothing is taken back, no half characters, stop strings wherever tokens are cut."""

from __future__ import annotations

import random

import pytest

from mindformers_qwenvl.text.stream import TextStream
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.from_file(golden_set("a56").vocab_file)


def bytewise(vocabulary, text: str, rng: random.Random) -> list[int]:
    """Ids of a text that is cut anywhere, also in the middle of characters."""
    raw, ids = text.encode(), []
    while raw:
        for length in sorted({1, rng.randrange(1, 7)}, reverse=True):
            try:
                ids.append(vocabulary.id(raw[:length]))
            except (KeyError, ValueError):
                continue
            raw = raw[length:]
            break
    return ids


TEXTS = ("Hello world", "  两只猫 and a 🐈‍⬛ \n", "ababababac", "no stop here, STO", "end\n\nHuman: more")
STOPS = ((), ("abac",), ("猫",), ("STOP", "\n\nHuman:"), ("🐈",), ("b", "ba"))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stops", STOPS)
def test_pieces_are_the_text_up_to_the_first_stop(vocabulary, text, stops):
    places = [place for place in map(text.find, stops) if place >= 0]
    whole = text[: min(places)] if places else text
    rng = random.Random(len(text) + len(stops))
    for strip in (False, True):
        for _ in range(20):
            stream, pieces = TextStream(vocabulary, stops, strip), []
            for token in bytewise(vocabulary, text, rng):
                pieces.append(stream.add(token))
                assert (whole.strip() if strip else whole).startswith("".join(pieces))
                assert "\ufffd" not in pieces[-1]
                if stream.stopped:
                    break
            assert stream.stopped == bool(places)
            pieces.append(stream.end())
            assert "".join(pieces) == (whole.strip() if strip else whole)


def test_text_comes_as_soon_as_it_is_certain(vocabulary):
    stream = TextStream(vocabulary, ("STOP",))
    given = [stream.add(vocabulary.id(letter.encode())) for letter in "aST"]
    assert given == ["a", "", ""]
    assert stream.add(vocabulary.id(b"x")) == "STx"
    assert TextStream(vocabulary).add(vocabulary.id("猫".encode()[:1])) == ""


def test_an_unfinished_character_at_the_end_is_said_to_be_one(vocabulary):
    stream = TextStream(vocabulary)
    assert stream.add(vocabulary.id("猫".encode()[:1])) == "" and stream.end() == "\ufffd"


def test_image_tokens_and_ids_beyond_the_vocabulary_have_no_text(vocabulary):
    stream = TextStream(vocabulary)
    assert [stream.add(i) for i in (vocabulary.img_start_id, vocabulary.img_pad_id, 10**6)] == ["", "", ""]
