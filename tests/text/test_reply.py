"""From ids to the text of an answer, all at once and as they come. Plain Python."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.text.reply import ReplyDecoder, answer_text, chat_reply
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.layouts import failed, golden_lines, small_vocabulary

REAL = Vocabulary.from_file()
SMALL = small_vocabulary("a56")


REPLIES = ("response_box", "response_cut", "response_eod_only", "response_im_end")


@pytest.mark.parametrize("golden", golden_lines("tokenizer/make_context.jsonl"))
def test_golden_replies(golden):
    if failed(golden.get("error")):
        return
    for key in golden.keys() & set(REPLIES):
        expected, tail = golden[key]["text"], golden[key]["tail"]
        reply = chat_reply(REAL, tail)
        assert stream(REAL, tail)[-1] == reply
        if golden["args"]["query"] == "cafe\u0301 😀":
            # The original cuts the reply out of the decoded whole, after as many characters as the prompt had before
            # NFC, and so loses the first one of the reply.
            assert reply in (expected, f"<{expected}", f"一{expected}")
        else:
            assert reply == expected


def stream(vocabulary, ids):
    decoder = ReplyDecoder(vocabulary)
    return [*(decoder.add(i) for i in ids), decoder.end()]


def grows(texts):
    return all(after.startswith(before) for before, after in pairwise(texts))


@given(st.text(max_size=30), st.sampled_from([REAL, SMALL]), st.booleans())
def test_a_streamed_reply_is_the_reply_and_never_half_a_character(text, vocabulary, stopped):
    ids = vocabulary.encode_text(text, "none")
    ids = [*ids, vocabulary.im_end_id, vocabulary.eod_id] if stopped else ids
    texts = stream(vocabulary, ids)
    assert texts[-1] == chat_reply(vocabulary, ids)
    assert grows(texts)
    if stopped:
        assert texts[-1] == vocabulary.decode(ids[:-2]).strip()
        assert not any("\ufffd" in each for each in texts) or "\ufffd" in text


@given(st.lists(st.integers(0, 1023), max_size=40), st.integers(0, 3))
def test_whatever_a_network_writes_can_be_read(ids, stops):
    """The head of the network has 1,024 rows, the vocabulary 1,017 tokens; image tags need not close."""
    ids = ids + [SMALL.im_end_id] * stops
    texts = stream(SMALL, ids)
    assert texts[-1] == chat_reply(SMALL, ids)
    assert grows(texts)
    assert answer_text(SMALL, ids, [SMALL.im_end_id]) == answer_text(SMALL, [*ids, SMALL.im_end_id], [SMALL.im_end_id])


def test_a_chinese_character_of_several_tokens_comes_whole():
    ids = SMALL.encode_text("看: 猫!", "none")
    assert len(ids) > len("看: 猫!")  # bytes of characters are tokens in the small vocabulary
    assert [text for text in dict.fromkeys(stream(SMALL, [*ids, SMALL.im_end_id])) if text] == [
        *("看", "看:", "看: 猫", "看: 猫!")
    ]


def test_an_answer_cut_short_keeps_its_last_token_where_it_is_no_chat():
    ids = REAL.encode_text("yes")
    assert (chat_reply(REAL, ids), answer_text(REAL, ids, [REAL.im_end_id])) == ("", "yes")
