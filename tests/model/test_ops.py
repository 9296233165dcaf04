"""The forms that a CPU takes give what MindSpore's own operators give, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindformers.core.parallel_config import default_parallel_config
from mindspore import Parameter, nn, ops

from mindformers_qwenvl.model.layers import Norm
from mindformers_qwenvl.model.ops import RMSNorm
from mindformers_qwenvl.model.ops.cpu.forms import BiasAdd

EPS = 1e-6
CONFIG = SimpleNamespace(layer_norm_eps=EPS, layernorm_compute_type=ms.float32, parallel_config=default_parallel_config)


def numbers(*shape: int, seed: int, mean: float = 0.0) -> ms.Tensor:
    return ms.Tensor(np.random.RandomState(seed).randn(*shape).astype(np.float32) + np.float32(mean))


class StockLayerNorm(nn.Cell):
    def __init__(self, gamma, beta):
        super().__init__()
        self.gamma, self.beta = Parameter(gamma, name="gamma"), Parameter(beta, name="beta")
        self.norm = ops.LayerNorm(-1, -1, EPS)

    def construct(self, x):
        return self.norm(x, self.gamma, self.beta)[0]


class StockRMSNorm(nn.Cell):
    def __init__(self, weight):
        super().__init__()
        self.weight = Parameter(weight, name="weight")

    def construct(self, x):
        return x * ops.rsqrt(ops.square(x).mean(-1, keep_dims=True) + EPS) * self.weight


class StockBiasAdd(nn.Cell):
    def __init__(self, bias, add):
        super().__init__()
        self.bias, self.add = Parameter(bias, name="bias"), add

    def construct(self, x):
        return self.add(x, self.bias)


class Weighed(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, x, dy):
        return (self.cell(x) * dy).sum()


def output_and_gradients(cell: nn.Cell, x: ms.Tensor, dy: ms.Tensor) -> list[np.ndarray]:
    """y, then the gradients of sum(y * dy) by x and by each parameter."""
    weights = cell.trainable_params()
    y = cell(x)
    of_x, of_weights = ms.grad(Weighed(cell), 0, weights)(x, dy)
    return [array.asnumpy() for array in (y, of_x, *of_weights)]


def assert_alike(cell: nn.Cell, stock: nn.Cell, x: ms.Tensor) -> None:
    dy = numbers(*x.shape, seed=9)
    expected = output_and_gradients(stock.set_train(), x, dy)
    for ours, theirs in zip(output_and_gradients(cell.set_train(), x, dy), expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [(2, 33, 48), (70, 48)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_layer_norm(shape, mean):
    gamma, beta = numbers(48, seed=1, mean=1.0), numbers(48, seed=2)
    norm = Norm(48, CONFIG, (1,) * len(shape))
    assert norm.row_norm is not None
    norm.gamma.set_data(gamma)
    norm.beta.set_data(beta)
    assert_alike(norm, StockLayerNorm(gamma, beta), numbers(*shape, seed=3, mean=mean))


@pytest.mark.parametrize("tokens", [1, 33])  # one token takes another path
def test_rms_norm(tokens):
    weight = numbers(48, seed=1, mean=1.0)
    norm = RMSNorm(48, EPS, ms.float32)
    norm.weight.set_data(weight)
    assert_alike(norm, StockRMSNorm(weight), numbers(2, tokens, 48, seed=3))


def test_bias():
    bias = numbers(48, seed=1)
    assert_alike(StockBiasAdd(bias, BiasAdd()), StockBiasAdd(bias, ops.BiasAdd()), numbers(70, 48, seed=3))
