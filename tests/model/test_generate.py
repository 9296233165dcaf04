"""Greedy answers through the host's generate() against the original's."""

import numpy as np
import pytest

from mindformers_qwenvl.model.generation import bucket
from tests.golden import golden_set
from tests.model.harness import named_images, prompt


def greedy(network, golden, name):
    batch = prompt(golden, name)
    given = {}
    if named_images(golden, golden.arrays[f"ids.{name}"]):
        given = {"images": batch.images, "image_context_pos": batch.positions}
    length = len(golden.arrays[f"greedy.{name}"])
    answer = network.generate(batch.input_ids, max_new_tokens=length, do_sample=False, eos_token_id=[-1], **given)[0]
    return answer[batch.input_ids.shape[1] :]


@pytest.mark.parametrize("name", ["text", "one_image", "two_images", "multi_turn"])
def test_greedy_ids_with_cache(golden, cached_network, name):
    answer = greedy(cached_network(golden.name), golden, name)
    np.testing.assert_array_equal(answer, golden.arrays[f"greedy.{name}"])


@pytest.mark.parametrize(("golden_name", "name"), [("a56", "two_images"), ("b224", "text")])
def test_greedy_ids_without_cache(network, golden_name, name):
    golden = golden_set(golden_name)
    answer = greedy(network(golden_name), golden, name)
    np.testing.assert_array_equal(answer, golden.arrays[f"greedy.{name}"])


def test_buckets():
    assert [bucket(length, 8192) for length in (1, 32, 33, 291, 512, 513, 8192)] == [32, 32, 64, 320, 512, 576, 8192]
    assert bucket(2040, 2044) == 2044
    lengths = np.arange(1, 8193)
    columns = np.array([bucket(int(length), 8192) for length in lengths])
    assert (columns >= lengths).all()
    assert (columns[lengths > 256] <= lengths[lengths > 256] * 1.125 + 1).all()
    assert len(set(columns)) < 50
