"""Untrained weights start as the original's do, where it keeps torch's own initialisation."""

import math

import numpy as np
import pytest

WIDTH, DIM, PATCH = 32, 128, 14


@pytest.fixture(scope="module")
def weights():
    from mindformers_qwenvl import QwenVLVisionConfig
    from mindformers_qwenvl.model.vision import QwenVLVisionModel

    config = QwenVLVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=64,
        image_size=56,
        patch_size=PATCH,
        output_dim=DIM,
        num_queries=4,
        initializer_range=0.02,
        param_init_type="float32",
        compute_dtype="float32",
    )
    return {param.name: param.asnumpy() for param in QwenVLVisionModel(config).get_parameters()}


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("conv1.weight", 1 / math.sqrt(3 * PATCH**2)),  # torch's Conv2d
        *(
            (f"attn_pool.attn.{part}.weight", math.sqrt(6 / (4 * DIM))) for part in ("wq", "wk", "wv")
        ),  # MultiheadAttention
    ],
)
def test_uniform_within_torch_bound(weights, name, bound):
    values = weights[name]
    assert 0.98 * bound < np.abs(values).max() <= bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("transformer.resblocks.0.attn.in_proj.weight", 0.02),
        ("attn_pool.attn.wo.weight", 0.02),
        ("positional_embedding", WIDTH**-0.5),
        ("proj", DIM**-0.5),
    ],
)
def test_normal_with_the_deviation_of_the_original(weights, name, deviation):
    assert weights[name].std() == pytest.approx(deviation, rel=0.1)
    assert np.abs(weights[name]).max() > 2.5 * deviation
