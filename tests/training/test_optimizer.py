"""QwenVLAdamW: updates in place are AdamW's, whatever the groups."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindformers.core.optim import AdamW
from mindspore import Parameter, Tensor, nn

from mindformers_qwenvl.training.optimizer import QwenVLAdamW

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-3, "weight_decay": 0.1}
SHAPES = {"wq.weight": (7, 5), "wq.bias": (7,), "ffn_norm.weight": (5,)}


@pytest.fixture(autouse=True, scope="module")
def _context():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def schedule():
    return nn.exponential_decay_lr(1e-2, 0.5, 4, 1, 1)


def weights(dtype=ms.float32) -> list[Parameter]:
    random = np.random.RandomState(0)
    return [Parameter(Tensor(random.randn(*shape), dtype), name=name) for name, shape in SHAPES.items()]


def groups(parameters, kind: str):
    """The same weights: plain, with decays of their own, with learning rates of their own too."""
    if kind == "plain":
        return parameters
    decays, rates = (0.1, 0.0, 0.0), (1e-2, 3e-2, schedule())
    pairs = zip(parameters, decays, rates, strict=True)
    if kind == "decays":
        return [{"params": [parameter], "weight_decay": decay} for parameter, decay, _ in pairs]
    return [{"params": [parameter], "weight_decay": decay, "lr": rate} for parameter, decay, rate in pairs]


def updated(cls, kind: str, rate, dtype=ms.float32, **more) -> list[np.ndarray]:
    parameters = weights(dtype)
    optimizer = cls(groups(parameters, kind), learning_rate=rate, **SETTINGS, **more)
    random = np.random.RandomState(1)
    for _ in range(4):
        optimizer(tuple(Tensor(random.randn(*shape), dtype) for shape in SHAPES.values()))
    return [parameter.float().asnumpy() for parameter in parameters]


@pytest.mark.parametrize("kind", ["plain", "decays", "rates"])
@pytest.mark.parametrize("rate", [1e-2, "schedule"])
def test_in_place_is_the_hosts(kind, rate):
    """Four steps, so that bias correction, epsilon and decay each make a difference above the tolerance."""
    rate = schedule() if rate == "schedule" else rate
    found = updated(QwenVLAdamW, kind, rate, decay_rms_norm=False)
    for ours, theirs, start in zip(found, updated(AdamW, kind, rate), weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-7)
        assert np.abs(ours - start.asnumpy()).max() > 1e-2


def test_half_precision_is_left_to_the_host():
    optimizer = QwenVLAdamW(weights(ms.float16), learning_rate=1e-2, **SETTINGS)
    assert not optimizer.in_place
    ours = updated(QwenVLAdamW, "decays", 1e-2, ms.float16, decay_rms_norm=False)
    for found, expected in zip(ours, updated(AdamW, "decays", 1e-2, ms.float16), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_rms_norms_decay_in_place():
    """With a gradient of zero only decay changes a weight: (1 - 0.01 * 0.1) of it is left."""
    parameters = weights()
    optimizer = QwenVLAdamW(groups(parameters, "decays"), learning_rate=1e-2, **SETTINGS)
    optimizer(tuple(Tensor(np.zeros(shape), ms.float32) for shape in SHAPES.values()))
    left = {
        p.name: float((p.asnumpy() / start.asnumpy()).mean()) for p, start in zip(parameters, weights(), strict=True)
    }
    assert left == pytest.approx({"wq.weight": 0.999, "wq.bias": 1.0, "ffn_norm.weight": 0.999}, abs=1e-6)


# Of a tower with three layers, and the power of the decay that each should learn at.
VISION = {
    "vision_encoder.conv1.weight": 4,
    "vision_encoder.positional_embedding": 4,
    "vision_encoder.ln_pre.gamma": 4,
    "vision_encoder.transformer.resblocks.0.ln_1.beta": 3,
    "vision_encoder.transformer.resblocks.1.mlp.c_fc.weight": 2,
    "vision_encoder.transformer.resblocks.2.attn.in_proj.weight": 1,
    "vision_encoder.ln_post.gamma": 0,
    "vision_encoder.attn_pool.attn.wq.weight": 0,
    "vision_encoder.proj": 0,
    "llm_model.transformer.layers.0.attention.wq.weight": 0,
    "llm_model.transformer.layers.0.ffn_norm.weight": 0,
}


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["in place", "the host's"])
@pytest.mark.parametrize("rate", [1e-2, "schedule"])
@pytest.mark.parametrize("grouped", ["decays", "rates", "no"])
def test_lower_layers_of_the_vision_tower_learn_slower(dtype, rate, grouped):
    """A first step of Adam without weight decay is the learning rate wide, whatever the gradient."""
    parameters = [Parameter(Tensor(np.zeros((2, 3)), dtype), name=name) for name in VISION]
    given = [{"params": parameters[::2], "weight_decay": 0.1}, {"params": parameters[1::2], "weight_decay": 0.0}]
    rate = nn.ExponentialDecayLR(1e-2, 0.5, 4) if rate == "schedule" else rate
    if grouped == "rates":
        given[0]["lr"] = rate
        rate = 1e-2
    optimizer = QwenVLAdamW(parameters if grouped == "no" else given, rate, eps=1e-12, vision_lr_decay=0.8)
    assert optimizer.in_place == (dtype == ms.float32)
    optimizer(tuple(Tensor(np.full((2, 3), 7.0), dtype) for _ in optimizer.parameters))
    for parameter in parameters:
        wanted = -1e-2 * 0.8 ** VISION[parameter.name]
        np.testing.assert_allclose(parameter.float().asnumpy(), wanted, rtol=2e-3, err_msg=parameter.name)


@pytest.mark.parametrize("decay", [0, -0.5, 1.5, True, "0.95"])
def test_decays_that_make_no_sense(decay):
    with pytest.raises(ValueError, match=r"vision_lr_decay must be a number above 0 and at most 1, got"):
        QwenVLAdamW(weights(), learning_rate=1e-2, vision_lr_decay=decay)


def test_lora_plus():
    """B of an adapter learns at a multiple of the rate of A: after a first step of Adam each has moved by its rate."""

    class Factors(nn.Cell):
        def __init__(self):
            super().__init__()
            self.a = Parameter(Tensor(np.zeros((2, 3), np.float32)), name="w1.lora_a.weight")
            self.b = Parameter(Tensor(np.zeros((3, 2), np.float32)), name="w1.lora_b.weight")

    network = Factors()
    optimizer = QwenVLAdamW(network.trainable_params(), learning_rate=1e-3, lora_plus_ratio=16)
    optimizer((Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((3, 2), np.float32))))
    np.testing.assert_allclose(network.a.asnumpy(), -1e-3, rtol=1e-4)
    np.testing.assert_allclose(network.b.asnumpy(), -16e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="lora_plus_ratio"):
        QwenVLAdamW(network.trainable_params(), lora_plus_ratio=0)
