"""Logits against the original's (tests/golden), alone and in padded batches."""

import mindspore as ms
import numpy as np
import pytest

from tests.support.golden import golden_set
from tests.support.network_inputs import (
    BATCH_ROWS,
    PROMPTS,
    all_but_slow,
    inputs,
    named_images,
    only,
    pixels,
    prompt,
    thinned,
)

TOLERANCE = 5e-5


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    return np.log(np.exp(logits - top[..., None]).sum(-1)) + top


@pytest.fixture(scope="module")
def padded(golden, network):
    """Logits of every golden prompt, as rows of one padded batch: name -> [length, V]. One graph instead of six."""
    prompts = {name: golden.arrays[f"ids.{name}"] for name in PROMPTS}
    images = [named_images(golden, ids) for ids in prompts.values()]
    rows = np.full((len(prompts), max(map(len, prompts.values()))), golden.meta["special_ids"]["eod_id"])
    for row, ids in zip(rows, prompts.values(), strict=True):
        row[: len(ids)] = ids
    logits = network(*inputs(golden, rows, images).tensors).asnumpy()
    return {name: row[: len(ids)] for (name, ids), row in zip(prompts.items(), logits, strict=True)}


def check(golden, name, logits):
    np.testing.assert_allclose(logits[-8:], golden.arrays[f"logits.{name}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(log_sum_exp(logits), golden.arrays[f"lse.{name}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(logits.argmax(-1), golden.arrays[f"argmax.{name}"])


@all_but_slow("a56")
@pytest.mark.parametrize("name", PROMPTS)
def test_logits_of_golden_prompts(golden, padded, name):
    check(golden, name, padded[name])


def alone(golden, network, name):
    batch = prompt(golden, name)
    given = batch.tensors if named_images(golden, golden.arrays[f"ids.{name}"]) else batch.tensors[:1]
    check(golden, name, network(*given).asnumpy()[0])


@only("a56")
@pytest.mark.parametrize("name", ["text", "two_images"])
def test_logits_of_a_prompt_alone(golden, network, name):
    alone(golden, network, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMPTS)
def test_logits_of_every_prompt_alone(golden, network, name):
    alone(golden, network, name)


RANDOM = [name for name in golden_set("b224").meta["cases"] if name.startswith("rand")]


def check_borders(golden, case, logits):
    np.testing.assert_allclose(log_sum_exp(logits), golden.arrays[f"lse.{case}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(logits.argmax(-1), golden.arrays[f"argmax.{case}"])


@only("b224")
def test_dynamic_ntk_and_logn_at_their_borders(golden, network):
    """Each row of a batch takes the rotary base of its own length."""
    prompts = [golden.arrays[f"ids.{case}"] for case in RANDOM]
    rows = np.full((len(prompts), max(map(len, prompts))), golden.meta["special_ids"]["eod_id"], np.int32)
    for row, ids in zip(rows, prompts, strict=True):
        row[: len(ids)] = ids
    logits = network(ms.Tensor(rows)).asnumpy()
    for case, ids, row in zip(RANDOM, prompts, logits, strict=True):
        check_borders(golden, case, row[: len(ids)])


@pytest.mark.slow
@pytest.mark.parametrize("case", RANDOM)
@only("b224")
def test_dynamic_ntk_and_logn_of_a_prompt_alone(golden, network, case):
    check_borders(golden, case, network(ms.Tensor(golden.arrays[f"ids.{case}"][None])).asnumpy()[0])


@only("a56")
def test_rows_of_a_padded_batch_equal_themselves_alone(golden, network):
    """As in the original's own batch, in a set whose prompts are too short for dynamic NTK: with it, the original lets
    the padding of its batch mates choose the rotary base."""
    rows, mask = golden.arrays["batch_right.ids"].copy(), golden.arrays["batch_right.mask"]
    lengths = mask.sum(axis=1)
    images = [named_images(golden, row[:length]) for row, length in zip(rows, lengths, strict=True)]
    for row, length in zip(rows, lengths, strict=True):
        row[length:] = golden.meta["special_ids"]["eod_id"]
    logits = network(*inputs(golden, rows, images).tensors).asnumpy()
    for index, (name, length) in enumerate(zip(BATCH_ROWS, lengths, strict=True)):
        expected = golden.arrays[f"logits.{name}"]
        np.testing.assert_allclose(logits[index, length - 8 : length], expected, atol=TOLERANCE, rtol=0)
        expected = golden.arrays["batch_right.last_logits"][index]
        np.testing.assert_allclose(logits[index, length - 1], expected, atol=TOLERANCE, rtol=0)


@all_but_slow("a56")
@pytest.mark.parametrize("image", ["0", "1", "2", "3", "fake_zeros"])
def test_vision_tower(golden, network, image):
    size = golden.config["visual"]["image_size"]
    given = np.zeros((3, size, size), np.float32) if image == "fake_zeros" else pixels(golden, image)
    vectors = network.vision_encoder(ms.Tensor(given[None])).asnumpy()[0]
    expected = golden.arrays[f"vision_out.{image}"]
    np.testing.assert_allclose(thinned(vectors, expected), expected, atol=2e-5, rtol=0)


@pytest.mark.slow
@only("a56")
def test_filler_images_change_nothing(golden, network):
    batch = prompt(golden, "one_image")
    alone = network(*batch.tensors).asnumpy()
    filler = np.full_like(batch.positions, -1)
    filler[..., 0] = 0
    noise = np.random.RandomState(0).randn(*batch.images.shape).astype(np.float32)
    with_filler = network(
        ms.Tensor(batch.input_ids),
        ms.Tensor(np.concatenate([noise, batch.images], 1)),
        ms.Tensor(np.concatenate([filler, batch.positions], 1)),
    ).asnumpy()
    np.testing.assert_allclose(with_filler, alone, atol=1e-5, rtol=0)


@pytest.mark.slow
@only("a56")
def test_float16(golden, checkpoint_dir):
    """The published dtype: the answer stays the same, the last digits do not."""
    from mindformers_qwenvl import QwenVL

    network = QwenVL.from_pretrained(
        str(checkpoint_dir(golden.name)), compute_dtype="float16", param_init_type="float16"
    )
    logits = network.set_train(False)(*prompt(golden, "one_image").tensors)
    assert logits.dtype == ms.float16
    expected = golden.arrays["logits.one_image"]
    np.testing.assert_allclose(logits.asnumpy()[0, -8:], expected, atol=0.05)
