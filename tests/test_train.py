"""The train step off Ascend, on a network of four weights."""

from __future__ import annotations

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")


@pytest.fixture
def step():
    """`step(scale)` -> (the cell, its network, a function that runs it on an input)."""
    from mindspore import Tensor, nn

    from mindformers_qwenvl.train import QwenVLTrainOneStepCell

    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense = nn.Dense(2, 2, weight_init="ones", bias_init="zeros")

        def construct(self, x):
            return self.dense(x).sum()

    def make(**kwargs):
        ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
        network = Network()
        optimizer = nn.SGD(network.trainable_params(), learning_rate=0.5)
        cell = QwenVLTrainOneStepCell(network, optimizer, **kwargs).set_train()
        return cell, network, lambda *values: cell(Tensor([values], ms.float32))

    return make


def test_a_finite_step_updates(step):
    _, network, run = step(scale_sense=4.0)
    loss, overflow, scale, rate, _ = run(1.0, 2.0)
    assert (float(loss), bool(overflow), float(scale), float(rate)) == (6.0, False, 4.0, 0.5)
    np.testing.assert_array_equal(network.dense.weight.asnumpy(), [[0.5, 0.0], [0.5, 0.0]])


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_not_finite_skips_the_update(step, bad):
    _, network, run = step()
    _, overflow, *_ = run(1.0, bad)
    assert bool(overflow)
    np.testing.assert_array_equal(network.dense.weight.asnumpy(), np.ones((2, 2)))
    _, overflow, *_ = run(1.0, 1.0)  # the next step is not held up
    assert not bool(overflow)
    np.testing.assert_array_equal(network.dense.weight.asnumpy(), np.full((2, 2), 0.5))


def test_dynamic_loss_scale_and_clipping(step):
    from mindspore.nn import DynamicLossScaleUpdateCell

    update = DynamicLossScaleUpdateCell(loss_scale_value=64, scale_factor=2, scale_window=1000)
    _, network, run = step(scale_sense=update, use_clip_grad=True, max_grad_norm=1.0)
    run(1.0, float("inf"))
    _, _, scale, _, norm = run(3.0, 4.0)
    assert float(scale) == 32.0  # halved by the overflow
    assert float(norm) == pytest.approx(np.sqrt(2 * (9 + 16) + 2), rel=1e-6)
    moved = 1 - network.dense.weight.asnumpy()
    np.testing.assert_allclose(moved, 0.5 * np.array([[3, 4], [3, 4]]) / np.sqrt(52), rtol=1e-6)


def test_the_host_hands_it_what_its_own_cell_gets():
    """The builder drops `parallel_config` for wrappers it does not know; arguments of the YAML arrive."""
    from mindformers.wrapper.build_wrapper import build_wrapper
    from mindspore import nn

    from mindformers_qwenvl.registration import register

    register()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    network = nn.Dense(2, 2)
    given = {"network": network, "optimizer": nn.SGD(network.trainable_params()), "parallel_config": "the parallel one"}
    cell = build_wrapper({"type": "QwenVLTrainOneStepCell", "use_clip_grad": True}, default_args=given)
    assert type(cell).__name__ == "QwenVLTrainOneStepCell"
    assert cell.parallel_config == "the parallel one"
    assert cell.use_clip_grad
