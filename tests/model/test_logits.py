"""Logits against the original's (tests/golden), unbatched and in padded batches."""

import mindspore as ms
import numpy as np
import pytest

from tests.support.golden import golden_set
from tests.support.network_inputs import BATCH_ROWS, PROMPTS, inputs, named_images, only, pixels, prompt, thinned

TOLERANCE = 5e-5


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    return np.log(np.exp(logits - top[..., None]).sum(-1)) + top


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_of_golden_prompts(golden, network, name):
    if name not in golden.meta["cases"]:
        pytest.fail(f"{golden.name} has no prompt {name}")
    batch = prompt(golden, name)
    given = batch.tensors if named_images(golden, golden.arrays[f"ids.{name}"]) else batch.tensors[:1]
    logits = network(*given).asnumpy()[0]
    np.testing.assert_allclose(logits[-8:], golden.arrays[f"logits.{name}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(log_sum_exp(logits), golden.arrays[f"lse.{name}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(logits.argmax(-1), golden.arrays[f"argmax.{name}"])


@pytest.mark.parametrize("case", [name for name in golden_set("b224").meta["cases"] if name.startswith("rand")])
@only("b224")
def test_dynamic_ntk_and_logn_at_their_borders(golden, network, case):
    ids = golden.arrays[f"ids.{case}"]
    logits = network(ms.Tensor(ids[None])).asnumpy()[0]
    np.testing.assert_allclose(log_sum_exp(logits), golden.arrays[f"lse.{case}"], atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(logits.argmax(-1), golden.arrays[f"argmax.{case}"])


def test_rows_of_a_padded_batch_equal_themselves_alone(golden, network):
    """In b224 the original lets the padding of its batch mates choose the rotary base; here each row is as alone."""
    rows, mask = golden.arrays["batch_right.ids"].copy(), golden.arrays["batch_right.mask"]
    lengths = mask.sum(axis=1)
    images = [named_images(golden, row[:length]) for row, length in zip(rows, lengths, strict=True)]
    for row, length in zip(rows, lengths, strict=True):
        row[length:] = golden.meta["special_ids"]["eod_id"]
    logits = network(*inputs(golden, rows, images).tensors).asnumpy()
    for index, (name, length) in enumerate(zip(BATCH_ROWS, lengths, strict=True)):
        alone = golden.arrays[f"logits.{name}"]
        np.testing.assert_allclose(logits[index, length - 8 : length], alone, atol=TOLERANCE, rtol=0)
        if golden.name != "b224":
            expected = golden.arrays["batch_right.last_logits"][index]
            np.testing.assert_allclose(logits[index, length - 1], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("image", ["0", "1", "2", "3", "fake_zeros"])
def test_vision_tower(golden, network, image):
    size = golden.config["visual"]["image_size"]
    given = np.zeros((3, size, size), np.float32) if image == "fake_zeros" else pixels(golden, image)
    vectors = network.vision_encoder(ms.Tensor(given[None])).asnumpy()[0]
    expected = golden.arrays[f"vision_out.{image}"]
    np.testing.assert_allclose(thinned(vectors, expected), expected, atol=2e-5, rtol=0)


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


def test_float16(golden, checkpoint_dir):
    """The published dtype: the answer stays, the last digits do not."""
    from mindformers_qwenvl import QwenVL

    network = QwenVL.from_pretrained(
        str(checkpoint_dir(golden.name)), compute_dtype="float16", param_init_type="float16"
    )
    logits = network.set_train(False)(*prompt(golden, "one_image").tensors)
    assert logits.dtype == ms.float16
    expected = golden.arrays["logits.one_image"]
    np.testing.assert_allclose(logits.asnumpy()[0, -8:], expected, atol=0.05)
