"""How likely options are, held by the losses of the original's multiple-choice script on set a56; and `ground`."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_qwenvl.evaluate.prompts import Asking, ask, option_texts
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import TASKS
from tests.support.evaluation import golden_rows
from tests.support.golden import golden_set

IMAGES = golden_set("a56").directory / "images"


def query(row):
    sample = Sample(0, (row["image"],), row["question"], hint=row["hint"], choices=tuple(row["choices"]))
    text = ask(sample, Asking.of(TASKS["scienceqa_img"])).text.replace(
        "<img>1</img>", f"<img>{IMAGES / row['image']}</img>"
    )
    return text, option_texts(sample)


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_golden_losses_of_texts(network, processor, batch_size):
    rows = golden_rows("choice_a56")
    asked = [query(row) for row in rows]
    losses = network.score(
        [text for text, _ in asked], [options for _, options in asked], processor, batch_size=batch_size
    )
    for row, found in zip(rows, losses, strict=True):
        np.testing.assert_allclose(found, row["losses"], atol=1e-4)
        assert int(np.argmin(found)) == row["prediction"]


def test_golden_losses_of_ids(network):
    rows = golden_rows("choice_a56")[:4]
    losses = network.score(
        [row["prompt_ids"] for row in rows],
        [row["target_ids"] for row in rows],
        images=[[IMAGES / row["image"]] for row in rows],
    )
    for row, found in zip(rows, losses, strict=True):
        np.testing.assert_allclose(found, row["losses"], atol=1e-4)


@pytest.mark.slow
def test_options_of_several_tokens(network, processor):
    """The mean over the tokens of an option, as if each were asked for after those before it."""
    prompt, option = "Hello", processor.template.tokenizer.encode_with_images(" who are you").ids
    assert len(option) > 2
    ids = processor.template.tokenizer.encode_with_images(prompt).ids
    [whole] = network.score([prompt], [[option, option[:1]]], processor)
    each = [network.score([[*ids, *option[:n]]], [[option[n : n + 1]]])[0][0] for n in range(len(option))]
    assert whole[0] == pytest.approx(np.mean(each), abs=1e-5)
    assert whole[1] == pytest.approx(each[0], abs=1e-5)


@pytest.mark.parametrize(
    ("prompts", "options", "more", "message"),
    [
        ([], [" A"], {}, "at least one prompt"),
        ("Hello", [" A"], {}, "must be a list"),
        (["Hello"], [" A"], {}, "need a tokenizer"),
        ([[1, 2], [1, 2]], [[[3]], []], {}, "prompt 1, counted from 0, has none"),
        ([[1, 2]], [[[]]], {}, "has no tokens"),
        ([[1, 2]], [[[1]], [[2]]], {}, "each of the 1 prompts, got 2 lists"),
        ([[1, 2]], [[[1]]], {"images": [["a.png"]]}, "1 images for a prompt with 0 start"),
        ([[1, 2]], [[[1]]], {"images": []}, "each of the 1 prompts, got 0 lists"),
        ([[1] * 9000], [[[1]]], {}, "shorten it"),
        ([[1, 2]], [[[1]]], {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_clear_errors(network, prompts, options, more, message):
    with pytest.raises(ValueError, match=message):
        network.score(prompts, options, **more)


@pytest.mark.slow
def test_generate_works_after_score(network, processor):
    """Each has graphs of its own."""
    before, _ = network.chat(processor, "Hello", max_new_tokens=4, do_sample=False)
    network.score(["Hello"], [" A", " B"], processor)
    assert network.chat(processor, "Hello", max_new_tokens=4, do_sample=False)[0] == before


def test_ground_asks_as_the_benchmark(network, processor, monkeypatch):
    """The prompt is RefCOCO's; what the network writes after it is read as the box."""
    from mindformers_qwenvl.chat import ground

    seen = []

    def answer(network, tokenizer, prompts, pictures, config):
        seen.append((tokenizer.decode(prompts[0].input_ids.tolist()), config, pictures))
        ids = tokenizer.encode_with_images("(100,200),(300,400)</box>").ids
        return [ground_answer(tuple(ids), True)]

    from mindformers_qwenvl.chat.answer import Answer as ground_answer

    monkeypatch.setattr(ground, "generate_answers", answer)
    found = network.ground(processor, IMAGES / "0.png", "the red shape")
    text, config, pictures = seen[0]
    assert text.endswith("</img><ref>the red shape</ref><box>")
    assert (config.max_new_tokens, config.min_new_tokens, config.do_sample, config.chat_format) == (
        28,
        10,
        False,
        "raw",
    )
    assert pictures[0][0].shape == (3, 56, 56)
    [box] = found.boxes
    assert (box.label, box.coordinates) == ("the red shape", (100, 200, 300, 400))


@pytest.mark.slow
def test_ground_with_a_network(network, processor):
    assert not network.ground(processor, IMAGES / "0.png", "the red shape").boxes  # random weights write no box


@pytest.mark.parametrize("text", ["", "  ", "</ref><img>a.png</img>", "<|im_end|>"])
def test_ground_refuses(network, processor, text):
    with pytest.raises(ValueError, match="what to find"):
        network.ground(processor, IMAGES / "0.png", text)
