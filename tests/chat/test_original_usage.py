"""`model.generate(**tokenizer(query))`, the usage of the original's README and evaluation scripts, on set a56."""

from __future__ import annotations

import re

import mindspore as ms
import numpy as np
import pytest

from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.pictures.policy import ImageError
from tests.support.golden import golden_set

GOLDEN = golden_set("a56")
GREEDY = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": -1}  # one id: the original passes one


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_pictures(monkeypatch):
    """The golden paths, images/0.png, fit into the 16 slots of the set; absolute ones do not."""
    monkeypatch.chdir(GOLDEN.directory)


def text_of(tokenizer, name):
    """The golden prompt with pictures that exist."""
    text = tokenizer.decode(GOLDEN.arrays[f"ids.{name}"].tolist())
    return re.sub(r"<img>(.*?)(\d\.png)</img>", r"<img>images/\2</img>", text)


def test_pictures_are_opened_by_the_paths_in_the_ids(network, tokenizer):
    """With paths that fit into the slots, and with absolute ones, which do not."""
    query = text_of(tokenizer, "one_image")
    expected = GOLDEN.arrays["greedy.one_image"][:8].tolist()
    for text in (query, query.replace("<img>", f"<img>{GOLDEN.directory}/")):
        inputs = tokenizer(text)
        assert tokenizer.decode(inputs["input_ids"]) == text
        assert network.generate(**inputs, **GREEDY)[0][len(inputs["input_ids"]) :].tolist() == expected
    logits = network(ms.Tensor([inputs["input_ids"]], ms.int32))  # as the original's forward does
    np.testing.assert_allclose(logits.asnumpy()[0, -8:], GOLDEN.arrays["logits.one_image"], atol=5e-5)
    other = network.generate(**tokenizer(query.replace("images/0", "images/3")), **GREEDY)
    assert other[0][-8:].tolist() != expected


@pytest.mark.slow
def test_the_call_of_the_evaluation_scripts(network, tokenizer):
    """Padded on the left, with a mask, and with arguments of Hugging Face that change nothing."""
    texts = [text_of(tokenizer, "one_image"), text_of(tokenizer, "text")]
    tokenizer.padding_side = "left"
    try:
        batch = tokenizer(texts, return_tensors="np", padding="longest")
    finally:
        tokenizer.padding_side = "right"
    assert 0 in batch["attention_mask"]
    rows = network.generate(
        input_ids=ms.Tensor(batch["input_ids"]),
        attention_mask=ms.Tensor(batch["attention_mask"]),
        **GREEDY,
        num_beams=1,
        length_penalty=1,
        num_return_sequences=1,
        use_cache=True,
        output_hidden_states=True,
        pad_token_id=tokenizer.eod_id,
    )
    for row, name in zip(rows, ("one_image", "text"), strict=True):
        assert row[batch["input_ids"].shape[1] :].tolist() == GOLDEN.arrays[f"greedy.{name}"][:8].tolist()


def test_slots_without_a_picture_are_an_error(network, tokenizer):
    prompt = make_prompt(tokenizer, [{"image": "images/0.png"}, {"text": "What?"}])
    ids = prompt.input_ids[None]
    pixels = np.zeros((1, 1, 3, 56, 56), np.float32)
    nowhere = np.full((1, 1, 16, 2), -1, np.int32)
    for call in (
        lambda: network.generate(ids, **GREEDY),
        lambda: network(ms.Tensor(ids)),
        lambda: network.generate(ids, images=pixels, image_context_pos=nowhere, **GREEDY),
    ):
        with pytest.raises(ValueError, match=r"row 0: the image at token \d+ has no picture"):
            call()
    with pytest.raises(FileNotFoundError, match=r"image images/9\.png: no such file"):
        network.generate(**tokenizer("<img>images/9.png</img>"), **GREEDY)
    with pytest.raises(ImageError, match="not a readable image"):
        network.generate(**tokenizer("<img>golden.json</img>"), **GREEDY)
    with pytest.raises(ValueError, match=r"image at token 0 has 4 slots, .* has 16 per image .*image_slots=16"):
        network.generate([[tokenizer.img_start_id, *[tokenizer.img_pad_id] * 4, tokenizer.img_end_id]], **GREEDY)
    assert network(ms.Tensor(ids), ms.Tensor(pixels), ms.Tensor(nowhere)).shape[:2] == ids.shape  # a caller's own wish


def test_several_answers_to_each_prompt(network, tokenizer):
    ids = tokenizer(["Hello", "Hello there"], padding=True)["input_ids"]
    drawn = {"do_sample": True, "top_p": 0.95, "temperature": 3.0, "max_new_tokens": 6, "eos_token_id": -1, "seed": 3}
    rows = network.generate(ids, num_return_sequences=2, **drawn)
    prompts = [[i for i in row if i != tokenizer.eod_id] for row in ids]
    begins = [row[: len(prompt)].tolist() for row, prompt in zip(rows, (p for p in prompts for _ in "12"), strict=True)]
    assert begins == [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert rows[0].tolist() != rows[1].tolist() and rows[2].tolist() != rows[3].tolist()
    with pytest.raises(ValueError, match="num_return_sequences=2 needs sampling"):
        network.generate(ids, num_return_sequences=2, **GREEDY)


def test_arguments_are_used_or_refused(network, tokenizer):
    ids = GOLDEN.arrays["ids.text"][None]
    answer = GOLDEN.arrays["greedy.text"].tolist()
    length = ids.shape[1]
    third = answer[2]
    assert third not in answer[:2]
    settings = {"do_sample": False, "max_new_tokens": 8}
    assert network.generate(ids, eos_token_id=third, **settings)[0][length:].tolist() == answer[:3]
    stopped = network.generate(ids, stop_words_ids=[answer[:2]], eos_token_id=tokenizer.eod_id, **settings)[0]
    assert stopped[length:].tolist() == [*answer[:2], tokenizer.eod_id]
    response, _ = network.chat(tokenizer, "Hello, who are you? 你好", None, eos_token_id=third, **settings)
    assert response == tokenizer.decode(answer[:2]).strip()
    for call, what in (
        (lambda: network.generate(ids, max_new_token=8), "unknown key max_new_token; did you mean max_new_tokens"),
        (lambda: network.chat(tokenizer, "Hi", None, tempature=1.0), "tempature; did you mean temperature"),
        (lambda: network.generate(ids, banana=1), r"unknown key banana; it takes adapter_id, attention_mask"),
    ):
        with pytest.raises(TypeError, match=what):
            call()
    for given, what in (
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be the id of a token"),
        ({"attention_mask": [[1, 0, 1]]}, "attention_mask must be 0 or 1 for each"),
        ({"attention_mask": [[2] * length]}, "attention_mask must be 0 or 1 for each of input_ids, got 2"),
        ({"stop_words_ids": [5]}, "stop_words_ids must be a list of lists"),
    ):
        with pytest.raises(ValueError, match=what):
            network.generate(ids, **given, **{name: value for name, value in settings.items() if name not in given})
    with pytest.raises(ValueError, match="there is no token 5000: the network has the ids 0 to 1023"):
        network.generate([[1, 5000]], **settings)
