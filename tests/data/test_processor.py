"""Queries to network inputs and ids back to text, as the stock pipeline uses them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.pictures.images import ImageError
from tests.support.golden import golden_set
from tests.support.layouts import pads_in_images
from tests.support.pictures import assert_golden_pixels, draw
from tests.support.queries import arrays, golden_query

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("prompt", ["text", "one_image", "two_images", "multi_turn", "raw_caption", "image_last"])
def test_golden_prompts(make, tokenizer, prompt):
    query, want = golden_query(tokenizer, "a56", prompt)
    input_ids, images, positions = arrays(make()(query))
    assert input_ids.tolist() == [want]
    slots = np.flatnonzero(np.array(want) == tokenizer.img_pad_id)
    if not len(slots):
        assert images.shape == (1, 1, 3, 56, 56) and (positions == -1).all()
        return
    np.testing.assert_array_equal(positions.ravel(), slots)
    shown = [int(Path(path).stem) for path in re.findall("<img>(.*?)</img>", query[0]["text"])]
    for index, image in zip(shown, images[0], strict=True):
        assert_golden_pixels(image, golden_set("a56"), index)


@pytest.mark.parametrize("prompt", ["text", "one_image"])
def test_chat_frame_gives_the_golden_chat_prompts(make, tokenizer, prompt):
    [element], want = golden_query(tokenizer, "a56", prompt)
    said = element["text"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    input_ids, *_ = arrays(make(chat_format="chatml")(said))
    assert input_ids.tolist() == [want]
    if prompt == "one_image":
        elements = [{"image": golden_set("a56").image(0)}, {"text": said.split("</img>\n")[1]}]
        assert arrays(make(chat_format="chatml")(elements))[0].tolist() == [want]


def test_batch_of_rows_with_different_image_counts(make, tokenizer, tmp_path):
    paths = [str(draw(tmp_path / f"{i}.png", seed=i)) for i in range(2)]
    queries = [
        [{"text": "hi"}],
        [{"image": paths[0]}, {"text": "a"}, {"image": paths[1]}, {"text": "b"}],
        [{"image": paths[1]}, {"box": [(1, 2, 3, 4)], "ref": "it"}],
    ]
    processor = make()
    input_ids, images, positions = arrays(processor(queries))
    assert images.shape == (3, 2, 3, 56, 56)
    lengths = []
    for row, query in enumerate(queries):
        alone_ids, alone_images, alone_positions = arrays(processor(query))
        length = alone_ids.shape[1]
        lengths.append(length)
        np.testing.assert_array_equal(input_ids[row, :length], alone_ids[0])
        assert (input_ids[row, length:] == tokenizer.pad_token_id).all()
        text = tokenizer.from_list_format(query)
        assert input_ids[row, :length].tolist() == pads_in_images(tokenizer(text)["input_ids"], tokenizer)
        count = sum("image" in element for element in query)
        np.testing.assert_array_equal(positions[row, :count], alone_positions[0, :count])
        np.testing.assert_array_equal(images[row, :count], alone_images[0, :count])
        assert (positions[row, count:] == -1).all() and not images[row, count:].any()
    assert input_ids.shape[1] == max(lengths)
    assert arrays(make(max_length=200, padding="max_length")(queries))[0].shape == (3, 200)


def test_pictures_need_not_be_files(make, tokenizer, tmp_path):
    path = draw(tmp_path / "a.png")
    processor = make()
    want = arrays(processor([{"image": str(path)}, {"text": "?"}]))
    image = Image.open(path)
    for source in (path, path.read_bytes(), image, np.array(image)):
        got = arrays(processor([{"image": source}, {"text": "?"}]))
        for left, right in zip(got, want, strict=True):
            np.testing.assert_array_equal(left, right)
    array = np.array(image)
    both = arrays(processor([{"image": array}, {"text": f"<img>{path}</img>"}, {"image": array[::-1]}]))[1][0]
    np.testing.assert_array_equal(both[0], both[1])
    assert not np.array_equal(both[0], both[2])


def test_dataset_dir_joins_relative_paths(make, tmp_path):
    draw(tmp_path / "pictures" / "a.png")
    arrays(make(dataset_dir=str(tmp_path / "pictures"))([{"image": "a.png"}]))
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        make()([{"image": "a.png"}])


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        ([], ValueError, "expected a query"),
        ({"text": "a lone element"}, ValueError, "expected a query"),
        (None, ValueError, "expected a query"),
        ([[]], ValueError, "neither text nor images"),
        ([{"text": ""}], ValueError, "neither text nor images"),
        ([{"video": "a.mp4"}], ValueError, "element 0.*video"),
        ([{"text": "<img>a.png"}], ValueError, "unclosed"),
        ([{"image": 5}], ImageError, "<int>"),
        ([{"image": "no.png"}], FileNotFoundError, r"no\.png"),
        ([[{"text": "a"}], [{"text": "b " * 99}]], ValueError, "query 1 has .* tokens, max_length allows 64"),
    ],
)
def test_bad_queries_are_named(make, query, error, reason):
    with pytest.raises(error, match=reason):
        make(max_length=64)(query)


def test_post_process(make, tokenizer, tmp_path):
    path = str(draw(tmp_path / "a.png"))
    processor = make()
    query = [{"image": path}, {"text": "Where is the dog?"}]
    prompt = arrays(processor([query, [{"text": "hi"}]]))[0]
    answer = tokenizer("<ref>dog</ref><box>(1,2),(3,4)</box>")["input_ids"]
    output = [
        np.array([*prompt[0], *answer, tokenizer.eod_id]),
        [*processor.template.prompt([{"text": "hi"}]).input_ids, *answer],
    ]
    boxed = "<ref>dog</ref><box>(1,2),(3,4)</box>"
    shown = f"Picture 1: <img>{path}</img>\nWhere is the dog?{boxed}"
    assert processor.post_process(output) == [shown, f"hi{boxed}"]
    assert processor.post_process(output, skip_special_tokens=True)[1] == "hidog(1,2),(3,4)"
    processor("another query")
    unknown = f"Picture 1: <img></img>\nWhere is the dog?{boxed}"
    assert processor.post_process(output) == [unknown, f"hi{boxed}"]
    assert processor.post_process(output[:1], [query]) == [shown]


def test_post_process_of_a_chat_is_the_answer(make, tokenizer):
    processor = make(chat_format="chatml")
    prompt = arrays(processor("hi"))[0][0].tolist()
    ends = ([], [tokenizer.im_end_id], [tokenizer.eod_id], [tokenizer.im_end_id, *tokenizer("\nmore")["input_ids"]])
    for end in ends:
        assert processor.post_process([[*prompt, *tokenizer(" hello ")["input_ids"], *end]]) == ["hello"]


def test_post_process_survives_whatever_a_network_writes(make, tokenizer):
    processor = make()
    prompt = arrays(processor("hi"))[0][0].tolist()
    junk = [tokenizer.img_start_id, tokenizer.img_pad_id, 5000, tokenizer.vocab_size, 65, tokenizer.img_start_id]
    [text] = processor.post_process([[*prompt, *junk]])
    assert text == "hi" + tokenizer.decode([65])
