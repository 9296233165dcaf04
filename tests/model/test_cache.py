"""The key/value cache: cached decoding equals the full forward, in batches of any mixture, between any calls."""

import numpy as np
import pytest

from tests.support.golden import golden_set
from tests.support.network_inputs import inputs, named_images, only

STEPS = 12


def padded(golden, rows):
    """Rows of ids of any length, right-padded with end of text."""
    batch = np.full((len(rows), max(map(len, rows))), golden.meta["special_ids"]["eod_id"], np.int32)
    for row, ids in zip(batch, rows, strict=True):
        row[: len(ids)] = ids
    return batch


def answers(network, batch, images=None, steps=STEPS):
    """Greedy continuations of each row."""
    given = {} if images is None else {"images": images.images, "image_context_pos": images.positions}
    rows = network.generate(
        images.input_ids if images is not None else batch,
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=[-1],
        **given,
    )
    return [np.asarray(row)[-steps:] for row in rows]


@only("b224")
def test_cached_logits_equal_the_full_forward_at_every_step(golden, network, cached_network):
    """Random prompts, some beyond the trained length (NTK, logn); the full forward follows the cached answer."""
    import mindspore as ms

    random = np.random.RandomState(0)
    prompts = [random.randint(0, 600, length) for length in (5, 61, 130)]
    result = cached_network.generate(
        padded(golden, prompts),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=[-1],
        return_dict_in_generate=True,
        output_logits=True,
    )
    for row, prompt in enumerate(prompts):
        answer = np.asarray(result.sequences[row])[len(prompt) : len(prompt) + STEPS]
        whole = np.concatenate([prompt, answer]).astype(np.int32)
        full = network(
            ms.Tensor(padded(golden, [whole, np.zeros(160)])),
            None,
            None,
            None,
            ms.Tensor(np.array([len(prompt), 1], np.int32)),
        ).asnumpy()[0]
        for step in range(STEPS):
            expected = full[len(prompt) - 1 + step]
            np.testing.assert_allclose(result.logits[step][row], expected, atol=5e-5, rtol=0)


@pytest.mark.slow  # chat/test_batches.py has it, through `predict`
def test_mixed_batch_answers_as_each_row_alone(golden, cached_network):
    """One image, none, two images: different lengths and numbers of images in one batch."""
    names = ("one_image", "text", "two_images")
    rows = [golden.arrays[f"ids.{name}"] for name in names]
    images = inputs(golden, padded(golden, rows), [named_images(golden, ids) for ids in rows])
    for name, answer in zip(names, answers(cached_network, None, images), strict=True):
        np.testing.assert_array_equal(answer, golden.arrays[f"greedy.{name}"][:STEPS])


@pytest.mark.slow
@only("a56")
def test_calls_of_other_shapes_in_between_change_nothing(golden, cached_network):
    network = cached_network
    text, multi = (golden.arrays[f"ids.{name}"] for name in ("text", "multi_turn"))
    image_ids = golden.arrays["ids.one_image"]
    one_image = inputs(golden, image_ids[None], [named_images(golden, image_ids)])
    for _ in range(2):
        (alone,) = answers(network, text[None])
        np.testing.assert_array_equal(alone, golden.arrays["greedy.text"][:STEPS])
        both = answers(network, padded(golden, [text, text[:20]]))
        np.testing.assert_array_equal(both[0], alone)
        (with_image,) = answers(network, None, one_image)
        np.testing.assert_array_equal(with_image, golden.arrays["greedy.one_image"][:STEPS])
    assert len(multi) > len(text)


@only("a56")
def test_vision_tower_runs_once_a_prompt(golden, cached_network, monkeypatch):
    network = cached_network
    ids = golden.arrays["ids.one_image"]
    batch = inputs(golden, ids[None], [named_images(golden, ids)])
    given = []
    stock = network.prepare_inputs_for_generation

    def noted(*args, **kwargs):
        given.append(stock(*args, **kwargs))
        return given[-1]

    monkeypatch.setattr(network, "prepare_inputs_for_generation", noted)
    answers(network, None, batch)
    assert ["images" in step for step in given] == [True] + [False] * (STEPS - 1)


@only("a56")
def test_graphs_are_compiled_once_a_bucket_and_no_longer_than_it(golden, cached_network, monkeypatch):
    """291 tokens are computed in 320 columns, whatever seq_length is; 300 tokens need no other graph than 291.

    Nor do tokens after the 320th, where decoding reads only what a row has, not all that its block table could hold.
    """
    network = cached_network
    assert network.config.seq_length == 8192
    shapes = []
    stock = network.prepare_inputs_for_generation

    def noted(*args, **kwargs):
        inputs = stock(*args, **kwargs)
        shapes.append({name: inputs[name].shape for name in ("input_ids", "block_tables", "slot_mapping")})
        return inputs

    monkeypatch.setattr(network, "prepare_inputs_for_generation", noted)
    ids = np.resize(golden.arrays["ids.text"], 310)
    compiled = []
    by_length = network.reads_by_length(1)
    for length, steps in ((291, 3), (300, 3), (310, 16 if by_length else 3)):
        shapes.clear()
        answers(network, ids[None, :length], steps=steps)
        assert shapes[0] == {"input_ids": (1, 320), "block_tables": (1, 20), "slot_mapping": (320,)}
        tables = (1, 512 if by_length else 20)
        assert all(shape["block_tables"] == tables and shape["slot_mapping"] == (1,) for shape in shapes[1:])
        compiled.append(len(network.compile_cache))
    assert compiled[0] > 0 and set(compiled) == {compiled[0]}


def test_too_small_a_cache_is_refused(checkpoint_dir):
    from mindformers_qwenvl import QwenVL

    network = QwenVL.from_pretrained(str(checkpoint_dir("a56")), use_past=True, num_blocks=2, block_size=16)
    with pytest.raises(ValueError, match="num_blocks"):
        network.generate(golden_set("a56").arrays["ids.text"][None], max_new_tokens=2, do_sample=False)
