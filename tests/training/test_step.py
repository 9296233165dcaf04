"""The train step's accumulation, and what the optimizers decay and keep."""

from __future__ import annotations

import functools

import mindspore as ms
import numpy as np
import pytest
from mindformers.core.optim import AdamW
from mindformers.trainer.optimizer_grouped_parameters import get_optimizer_grouped_parameters
from mindspore import Parameter, Tensor, nn, ops

from mindformers_qwenvl import QwenVL, QwenVLConfig
from mindformers_qwenvl.host.old_names import FP32StateAdamWeightDecay
from mindformers_qwenvl.training.optimizer import QwenVLAdamW
from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell


@pytest.fixture(autouse=True, scope="module")
def _context():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


class Mean(nn.Cell):
    """A loss over label tokens, as QwenVL's: mean of (w x - label)^2 where the label counts."""

    def __init__(self):
        super().__init__()
        self.w = Parameter(Tensor([0.5, -1.0, 2.0], ms.float32), name="w")

    def construct(self, x, labels):
        labels = labels[:, 1:]
        counts = ops.cast(labels != -100, ms.float32)
        errors = ((x * self.w).sum(-1) - ops.cast(labels, ms.float32)) ** 2 * counts
        return errors.sum() / ops.maximum(counts.sum(), ops.scalar_to_tensor(1.0))


def batch(rows: int, counted: list[int]) -> tuple[Tensor, Tensor]:
    """x [rows, 6, 3] and labels [rows, 7], of which row r counts `counted[r]`, besides the first, which never does."""
    random = np.random.default_rng(0)
    labels = np.full((rows, 7), -100, np.int32)
    for row, count in enumerate(counted):
        labels[row, 1 : 1 + count] = random.integers(0, 5, count)
    labels[:, 0] = 3
    return Tensor(random.normal(size=(rows, 6, 3)), ms.float32), Tensor(labels)


def step_of(parts: int, **more):
    network = Mean()
    optimizer = nn.SGD(network.trainable_params(), learning_rate=0.1)
    settings = {"use_clip_grad": True, "max_grad_norm": 1e9, "scale_sense": 1.0, **more}
    return network, QwenVLTrainOneStepCell(network, optimizer, accumulation_steps=parts, **settings).set_train(True)


@functools.cache
def kept_step(parts: int, scale_sense: float):
    """`step_of`, compiled once for all tests; each begins with the weights of the first."""
    return step_of(parts, scale_sense=scale_sense)


@pytest.mark.parametrize("counted", [[6, 1, 2, 0], [6, 0, 0, 5], [0, 0, 4, 6], [0, 0, 0, 0]])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_is_the_whole_batch(parts, counted):
    """Each part counts by its label tokens; one without any changes nothing."""
    (whole, whole_step), (cut, cut_step) = kept_step(1, 1.0), kept_step(parts, 1024.0)
    for network in (whole, cut):
        network.w.set_data(Mean().w)
    expected, found = whole_step(*batch(4, counted)), cut_step(*batch(4, counted))
    for part in (0, 4):  # loss, gradient norm
        np.testing.assert_allclose(found[part].asnumpy(), expected[part].asnumpy(), rtol=1e-6)
    np.testing.assert_allclose(cut.w.asnumpy(), whole.w.asnumpy(), rtol=1e-6)
    assert np.isfinite(cut.w.asnumpy()).all()
    assert (np.abs(cut.w.asnumpy() - [0.5, -1.0, 2.0]).max() > 1e-3) == any(counted)


def test_parts_that_do_not_divide_the_batch():
    with pytest.raises(ValueError, match="accumulation_steps must divide"):
        step_of(3)[1](*batch(4, [1, 1, 1, 1]))


@pytest.mark.parametrize("parts", [0, -1, 2.0, True, "2"])
def test_what_is_not_a_number_of_parts(parts):
    with pytest.raises(ValueError, match="accumulation_steps must be a whole number of 1 or more"):
        step_of(parts)


def test_what_is_not_a_switch():
    with pytest.raises(ValueError, match="weigh_cards must be True or False"):
        step_of(1, weigh_cards="no")


@pytest.fixture(scope="module")
def tiny() -> QwenVL:
    vision = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
    llm = {"hidden_size": 256, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "vocab_size": 64}
    kinds = {"compute_dtype": "float32", "param_init_type": "float16"}
    return QwenVL(QwenVLConfig(vision_model=vision, llm_model={**llm, "seq_length": 32}, num_queries=4, **kinds))


def decayed(optimizer) -> set[str]:
    pairs = zip(optimizer.group_params, optimizer.group_weight_decay, strict=True)
    return {parameter.name for parameter, decay in pairs if float(decay) > 0}


def test_what_decays(tiny):
    """As the original: all but biases and LayerNorms. The host's AdamW spares RMSNorms too."""
    names = {parameter.name for parameter in tiny.trainable_params()}
    vectors = {parameter.name for parameter in tiny.trainable_params() if parameter.ndim == 1}
    norms = {name for name in names if name.endswith(("attention_norm.weight", "ffn_norm.weight", "ln_f.weight"))}
    spared = {name for name in names if name.endswith((".bias", ".gamma", ".beta"))}
    assert len(norms) == 3
    assert spared | norms == vectors
    groups = get_optimizer_grouped_parameters(tiny, weight_decay=0.1)
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1}
    assert decayed(QwenVLAdamW(groups, **settings)) == names - spared
    assert decayed(QwenVLAdamW(groups, **settings, decay_rms_norm=False)) == names - vectors
    assert decayed(AdamW(groups, **settings)) == names - vectors


@pytest.mark.parametrize("optimizer_type", [QwenVLAdamW, FP32StateAdamWeightDecay])
@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_moments_are_float32(optimizer_type, dtype):
    weight = Parameter(Tensor(np.ones((2, 3)), dtype), name="weight")
    optimizer = optimizer_type([{"params": [weight], "weight_decay": 0.1}], learning_rate=1e-3, weight_decay=0.1)
    moments = [parameter for parameter in optimizer.get_parameters() if parameter.name.startswith("adam_")]
    assert {parameter.name for parameter in moments} == {"adam_m.weight", "adam_v.weight"}
    assert {parameter.dtype for parameter in moments} == {ms.float32}
    assert weight.dtype == dtype


def test_small_gradients_of_float16_are_not_lost():
    """1e-4 squared is nothing in float16; the update is still the whole learning rate."""
    weight = Parameter(Tensor(np.full((2, 3), 0.01), ms.float16), name="weight")
    optimizer = QwenVLAdamW([{"params": [weight]}], learning_rate=1e-3)
    optimizer((Tensor(np.full((2, 3), 1e-4), ms.float16),))
    np.testing.assert_allclose(weight.asnumpy(), 0.009, rtol=1e-3)


@pytest.mark.parametrize("clip", [True, False])
def test_a_loss_scale_that_changes_leaves_the_update_alone(clip):
    """Doubled after each step, from 2 on: the weights are those of no scale at all."""
    settings = {"use_clip_grad": clip, "max_grad_norm": 0.5}
    (plain, plain_step), (scaled, scaled_step) = (
        step_of(1, **settings),
        step_of(1, **settings, scale_sense=nn.DynamicLossScaleUpdateCell(2.0, 2, 1)),
    )
    reported = []
    for _ in range(3):
        plain_step(*batch(4, [6, 1, 2, 0]))
        reported.append(float(scaled_step(*batch(4, [6, 1, 2, 0]))[2].asnumpy()))
    np.testing.assert_allclose(scaled.w.asnumpy(), plain.w.asnumpy(), rtol=1e-6)
    assert reported == [2.0, 4.0, 8.0]  # of each step, not of the next
    assert float(scaled_step.scale_sense.asnumpy()) == 16.0


class WeighedSum(nn.Cell):
    """Its gradient by the weights is what it is given."""

    def __init__(self, shape):
        super().__init__()
        self.w = Parameter(Tensor(np.zeros(shape), ms.float32), name="w")

    def construct(self, gradient, labels):
        return (self.w * gradient).sum()


@pytest.mark.parametrize("shape", [(3,), (5, 7), (4, 16), (2, 3, 4, 4), (64, 33)])
def test_gradient_norm(shape):
    gradient = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    network = WeighedSum(shape)
    optimizer = nn.SGD(network.trainable_params(), learning_rate=1.0)
    step = QwenVLTrainOneStepCell(network, optimizer, use_clip_grad=True, max_grad_norm=0.5, scale_sense=1.0)
    *_, norm = step.set_train(True)(Tensor(gradient), Tensor(np.zeros((1, 2), np.int32)))
    expected = np.linalg.norm(gradient.astype(np.float64))
    np.testing.assert_allclose(norm.asnumpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(network.w.asnumpy(), -0.5 * gradient / expected, rtol=1e-5)


def test_an_overflow_leaves_the_weights_alone():
    network, step = step_of(1, scale_sense=nn.DynamicLossScaleUpdateCell(1024.0, 2, 1000))
    x, labels = batch(4, [6, 1, 2, 0])
    _, overflow, *_ = step(x * float("inf"), labels)
    assert bool(overflow.asnumpy())
    np.testing.assert_array_equal(network.w.asnumpy(), [0.5, -1.0, 2.0])
    assert float(step.scale_sense.asnumpy()) == 512.0


def test_a_constant_learning_rate_leaves_the_names_of_checkpoints_alone():
    """It is a parameter; with a copy of it in the step, MindSpore would put `network.` before every name."""
    network = nn.Dense(2, 2)
    step = QwenVLTrainOneStepCell(network, QwenVLAdamW(network.trainable_params(), 1e-3))
    before = [parameter.name for parameter in step.get_parameters()]
    step.check_names_and_refresh_name()
    assert [parameter.name for parameter in step.get_parameters()] == before
    assert {"weight", "bias"} <= set(before)
