"""Prompts and their pictures: plain Python, against the golden contexts of the real vocabulary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.generation.prompt import Pictures, make_prompt, prompt_that_fits
from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.text.reply import row_text
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import SETS, golden_set
from tests.support.layouts import failed, golden_lines, pads_in_images, small_vocabulary

REAL = Vocabulary.from_file()
SMALL = small_vocabulary("a56")


def said(vocabulary, prompt):
    """A prompt as text, images with their names."""
    return row_text(vocabulary, prompt.input_ids, prompt)


@pytest.mark.parametrize("golden", golden_lines("tokenizer/make_context.jsonl"))
def test_golden_contexts_and_trimming(golden):
    arguments = {"system": "", **golden["args"]}
    if failed(golden.get("error")):
        with pytest.raises(ValueError):
            make_prompt(REAL, **arguments)
        return
    prompt = make_prompt(REAL, **arguments)
    assert prompt.input_ids.tolist() == pads_in_images(golden["ids"], REAL)
    assert prompt.input_ids.dtype == np.int32 and prompt.labels is None


CHATS = {
    "text": ("Hello, who are you? 你好", None),
    "one_image": ([{"image": "0.png"}, {"text": "What is it?"}], None),
    "two_images": ([{"image": "1.png"}, {"image": "2.png"}, {"text": "Compare them."}], None),
    "multi_turn": (
        "Where? <ref>the cat</ref>",
        [("Picture 1: <img>3.png</img>\nDescribe.", "A cat<box>(1,2),(30,40)</box>")],
    ),
}
RAW = {"raw_caption": "<img>0.png</img>Generate the caption in English:", "image_last": "x<img>2.png</img>"}


@pytest.mark.parametrize("name", SETS)
def test_golden_prompts_of_the_small_vocabularies(name):
    golden, vocabulary = golden_set(name).arrays, small_vocabulary(name)
    for key, (query, history) in CHATS.items():
        prompt = make_prompt(vocabulary, query, history)
        assert prompt.input_ids.tolist() == pads_in_images(golden[f"ids.{key}"].tolist(), vocabulary), key
    for key, text in RAW.items():
        prompt = make_prompt(vocabulary, [{"text": text}], chat_format="raw")
        assert prompt.input_ids.tolist() == pads_in_images(golden[f"ids.{key}"].tolist(), vocabulary), key
        assert prompt.images == (("0.png",) if key == "raw_caption" else ("2.png",))
        (span,) = prompt.spans
        assert set(prompt.input_ids[span.start : span.stop]) == {vocabulary.img_pad_id}


def test_the_oldest_exchanges_give_way_when_the_network_is_too_short():
    history = [(f"q{number}", f"a{number}") for number in range(9)]
    whole = make_prompt(REAL, "now", history)
    short = make_prompt(REAL, "now", history, longest=len(whole) - 1)
    assert "q0" in said(REAL, whole) and "q0" not in said(REAL, short) and "q1" in said(REAL, short)
    none = make_prompt(REAL, "now", history, longest=1)  # the question itself stays
    assert said(REAL, none) == said(REAL, make_prompt(REAL, "now"))


def test_pictures_in_memory_have_names_of_their_own():
    red, blue = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    history = [([{"image": red}, {"text": "colour?"}], "red"), (f"and <img>{'x' * 400}.png</img>?", "blue")]
    prompt = make_prompt(SMALL, [{"image": blue}, {"image": Path("a.png")}, {"text": "?"}], history)
    assert prompt.image_sources == [red, f"{'x' * 400}.png", blue, Path("a.png")]
    assert prompt.images == ("memory:1", f"{'x' * 400}.png", "memory:2", "a.png")
    assert "Picture 1: <img>memory:1</img>\ncolour?" in said(SMALL, prompt)
    for span in prompt.spans:
        assert set(prompt.input_ids[span.start : span.stop]) == {SMALL.img_pad_id} and span.stop - span.start == 16


@pytest.mark.parametrize(
    ("query", "history", "message"),
    [
        ({"text": "x"}, None, "a query must be a text, or a list"),
        (7, None, "a query must be a text, or a list"),
        ("x", ["ab"], "item 0 must be a pair"),
        ("x", [("a", "b"), {"role": "user"}], "item 1 must be a pair"),
        ("x", [("a", 3)], "the answer of item 0"),
        ("<img>a.png", None, "unclosed image tag"),
        ([{"sound": "a.wav"}], None, "sound"),
    ],
)
def test_bad_queries_and_histories_are_named(query, history, message):
    with pytest.raises(ValueError, match=message):
        make_prompt(REAL, query, history)


@pytest.mark.parametrize("max_new_tokens", [10, 500])
def test_a_prompt_leaves_room_for_an_answer(max_new_tokens):
    """For max_new_tokens of answer, or for a quarter of the network's length if that is less."""
    config = SimpleNamespace(max_new_tokens=max_new_tokens, max_window_size=10**6, chat_format="chatml")
    history = [(f"q{number}", f"a{number}") for number in range(99)]
    prompt = prompt_that_fits(REAL, "now", history, "", config=config, seq_length=400)
    exchange = len(make_prompt(REAL, "now", history[:9], "")) - len(make_prompt(REAL, "now", history[:8], ""))
    room = min(max_new_tokens, 100)
    assert 400 - room - exchange - 2 < len(prompt) <= 400 - room


def test_pictures_are_opened_once_while_they_are_kept(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    for path in paths:
        Image.new("RGB", (8, 8), "red").save(path)
    pictures = Pictures(ImageTransform(14), keep=2)
    first = pictures.pixels(paths[0])
    np.testing.assert_array_equal(first, Pictures(ImageTransform(14)).pixels(paths[0]))
    assert pictures.pixels(paths[0]) is first
    pictures.pixels(paths[1]), pictures.pixels(paths[0]), pictures.pixels(paths[2])
    assert pictures.pixels(paths[0]) is first  # the one that was unused for longest is gone
    Path(paths[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        pictures.pixels(paths[1])


@pytest.mark.parametrize("answer", ["<img>/etc/shadow.png</img>", "a <img>open", "</img><imgpad>"])
def test_what_a_model_writes_opens_no_picture(answer):
    """In the next turn it is text; boxes in it stay tokens."""
    history = [("<img>0.png</img>What?", f"{answer}<ref>it</ref><box>(1,2),(3,4)</box>")]
    prompt = make_prompt(REAL, "And?", history)
    assert prompt.images == ("0.png",) and len(prompt.spans) == 1
    ids = prompt.input_ids.tolist()
    assert REAL.box_start_id in ids and ids.count(REAL.img_start_id) == 1
    assert answer in REAL.decode([i for i in ids if i not in (REAL.img_start_id, REAL.img_end_id, REAL.img_pad_id)])
    if "shadow" in answer:  # as in the original, if it is asked for
        asked = make_prompt(REAL, "And?", history, answer_pictures=True)
        assert asked.images == ("0.png", "/etc/shadow.png")
