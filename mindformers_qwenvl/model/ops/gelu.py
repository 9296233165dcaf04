"""GELU of the vision tower, with a cheaper gradient where nothing is sharded."""

from __future__ import annotations

import math

from mindspore import dtype as mstype
from mindspore import nn
from mindspore import ops as P

from mindformers_qwenvl.model.ops.cpu.forms import DifferentiatedGelu
from mindformers_qwenvl.model.ops.device import unsharded

__all__ = ["Gelu"]


class Gelu(nn.Cell):
    """Exact GELU, x * (1 + erf(x / sqrt(2))) / 2, in `compute_type` (the original never uses the tanh form)."""

    def __init__(self, compute_type: mstype.Type, strategy: tuple[int, ...]):
        super().__init__()
        self.compute_type = compute_type
        self.cast = P.Cast()
        self.erf = P.Erf().shard((strategy,))
        self.scale = P.Mul().shard((strategy, ()))
        self.shift = P.Add().shard((strategy, ()))
        self.mul = P.Mul().shard((strategy, strategy))
        self.differentiated = DifferentiatedGelu(self) if unsharded() else None

    def construct(self, x):
        dtype = x.dtype
        x = self.cast(x, self.compute_type)
        if self.differentiated is not None and self.training:
            x = self.differentiated(x)[0]
        else:
            x = self.mul(x, self.gate(x))
        return self.cast(x, dtype)

    def gate(self, x):
        """(1 + erf(x / sqrt(2))) / 2, the normal distribution."""
        return self.scale(self.shift(self.erf(self.scale(x, math.sqrt(0.5))), 1.0), 0.5)
