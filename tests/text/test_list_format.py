"""The list form of a text with images, and its text form, against the goldens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.text.list_format import from_list_format, restore_image_paths, to_list_format
from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.layouts import failed, golden_lines, pads_in_images, small_vocabulary

REAL = Vocabulary.from_file()
SMALL = small_vocabulary("a56")


@pytest.mark.parametrize("golden", golden_lines("tokenizer/from_list_format.jsonl"))
def test_golden_list_formats(golden):
    if failed(golden["text"]):
        with pytest.raises(ValueError):
            from_list_format(golden["list"])
        return
    assert from_list_format(golden["list"]) == golden["text"]
    assert REAL.encode_with_images(golden["text"]).ids == pads_in_images(golden["ids"], REAL)


def test_golden_texts_to_lists():
    for golden in golden_lines("tokenizer/tokenize.jsonl"):
        if failed(golden["list_format"]):
            with pytest.raises(ValueError):
                to_list_format(golden["text"])
        else:
            assert to_list_format(golden["text"]) == golden["list_format"], golden["text"]


@pytest.mark.parametrize(
    ("elements", "named"),
    [
        ([{"text": "a"}, "b"], "element 1: expected a dict"),
        ([{"image": None}], "element 0: image must be a string, got None"),
        ([{"box": 5}], "element 0: box"),
        ([{"box": (1, 2, 3, 4)}], r"element 0: box takes a list of \[x1, y1, x2, y2\]"),
        ([{"box": [["a", 2, 3, 4]]}], "element 0: box"),
        ([{"box": [[1, 2, 3, float("inf")]]}], "element 0: box"),
        ([{"ref": 1, "box": [[1, 2, 3, 4]]}], "element 0: ref must be a string"),
    ],
)
def test_bad_elements_are_named(elements, named):
    with pytest.raises(ValueError, match=named):
        from_list_format(elements)


@given(st.lists(st.text("abc 猫\n", min_size=1, max_size=5), max_size=4))
def test_texts_and_images_come_back(words):
    elements = [element for word in words for element in ({"text": word}, {"image": word})]
    pieces = [piece for piece in to_list_format(from_list_format(elements)) if "image" in piece]
    assert pieces == [{"image": word} for word in words]
    tags = Tags(image_start="[", image_end="]")
    assert to_list_format(from_list_format(elements, tags)) == to_list_format(
        "".join(f"{word}Picture {n}: [{word}]\n" for n, word in enumerate(words, 1))
    )
    assert [e for e in to_list_format(from_list_format(elements, tags), tags) if "image" in e] == pieces


def test_paths_return_to_a_decoded_text():
    row = SMALL.encode_with_images("a<img>x.png</img>b<img>y.png</img>")
    assert restore_image_paths(SMALL.decode(row.ids), row.images) == "a<img>x.png</img>b<img>y.png</img>"
    assert restore_image_paths("<img></img><img></img>", ["x"]) == "<img>x</img><img></img>"
    assert restore_image_paths("no image", ["x"]) == "no image"
