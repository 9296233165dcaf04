"""What a train step computes over all gradients at once."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import dtype as mstype
from mindspore import nn, ops
from mindspore.ops import composite as C

from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["NotFinite", "SquareSum", "count_not_finite", "has_overflow_register", "square_sum"]

_WIDTH = 16
_product = ops.MatMul(transpose_a=True)
_identity = ms.Tensor(np.eye(_WIDTH, dtype=np.float32))
_square_sum = C.MultitypeFuncGraph("square_sum")
_not_finite = C.MultitypeFuncGraph("not_finite")


@_square_sum.register("Tensor")
def _square_sum_of(gradient):
    gradient = ops.cast(gradient, mstype.float32)
    if gradient.size % _WIDTH:
        return ops.square(gradient).sum().reshape((1,))
    # The trace of X^T X, for X with few columns: a CPU reads the gradient once, in all threads, and writes no squares.
    columns = gradient.reshape((-1, _WIDTH))
    return (_product(columns, columns) * _identity).sum().reshape((1,))


@_not_finite.register("Tensor")
def count_not_finite(tensor):
    """How many items of a tensor are infinite or NaN, float32 scalar."""
    return ops.cast(ops.logical_not(ops.isfinite(tensor)), mstype.float32).sum()


def has_overflow_register() -> bool:
    """Whether the device itself records overflows, as Ascend does; elsewhere `NotFinite` looks for them."""
    return on_ascend()


def square_sum() -> SquareSum | None:
    """A `SquareSum` where it may be used: off Ascend, with gradients that are not sharded."""
    return SquareSum() if unsharded() else None


class SquareSum(nn.Cell):
    """The sum of the squares of all gradients, a tuple of tensors; result: float32 [1]."""

    def __init__(self):
        super().__init__()
        self.hyper_map = ops.HyperMap()

    def construct(self, gradients):
        return ops.addn(self.hyper_map(_square_sum, gradients))


class NotFinite(nn.Cell):
    """Above 0 if an item of the gradients, a tuple of tensors, is infinite or NaN; result: float32 scalar.

    Where `square_sum` may be used, only the sum is checked, so squares that overflow count too.
    """

    def __init__(self):
        super().__init__()
        self.hyper_map = ops.HyperMap()
        self.square_sum = square_sum()

    def construct(self, gradients):
        if self.square_sum is not None:
            return count_not_finite(self.square_sum(gradients))
        return ops.addn(self.hyper_map(_not_finite, gradients))
