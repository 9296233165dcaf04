import math

import numpy as np
import pytest

from mindformers_qwenvl.model.positions import inverse_frequencies, log_n_scale, ntk_limits, resize_matrix, sincos_table
from tests.support.golden import draw_checkpoint
from tests.support.network_inputs import thinned


def test_resized_vit_table(golden):
    table = draw_checkpoint(golden.name)["transformer.visual.positional_embedding"]
    patches = (golden.config["visual"]["image_size"] // 14) ** 2
    matrix = resize_matrix(len(table), patches)
    resized = table if matrix is None else matrix @ table
    expected = golden.arrays["pos.visual_interp"]
    np.testing.assert_allclose(thinned(resized, expected), expected, atol=2e-6)


def test_resampler_table_and_its_resizing(golden):
    queries, dim = golden.meta["n_queries"], golden.config["visual"]["output_dim"]
    table = sincos_table(dim, math.isqrt(queries))
    expected = golden.arrays["pos.resampler_table"]
    np.testing.assert_allclose(thinned(table, expected), expected, atol=1e-6)
    matrix = resize_matrix(queries, (golden.config["visual"]["image_size"] // 14) ** 2)
    expected = golden.arrays["pos.resampler_interp"]
    np.testing.assert_allclose(thinned(table if matrix is None else matrix @ table, expected), expected, atol=2e-6)


def test_resizing_keeps_a_constant_and_is_none_for_equal_sizes():
    np.testing.assert_allclose(resize_matrix(256, 1024).sum(axis=1), 1, atol=1e-6)
    assert resize_matrix(256, 256) is None


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 4096, 4097, 8192])
def test_dynamic_ntk_follows_the_original_formula(length):
    alpha = max(2 ** math.ceil(math.log(length / 2048, 2) + 1) - 1, 1)
    limits = ntk_limits(2048, 8192)
    level = int((length > limits).sum())
    frequencies = inverse_frequencies(128, 10000, len(limits) + 1)[level]
    base = 10000 * alpha ** (128 / 126)
    np.testing.assert_allclose(frequencies, base ** -(np.arange(0, 128, 2) / 128), rtol=1e-6)


def test_no_ntk_level_beyond_need():
    assert len(ntk_limits(2048, 2048)) == 0
    assert list(ntk_limits(64, 256)) == [64, 128]


def test_logn_scale():
    scale = log_n_scale(2048, 8192)
    assert (scale[:2048] == 1).all()
    assert scale[2048] == np.float32(math.log(2049, 2048))
    assert scale[8191] == np.float32(math.log(8192, 2048))
