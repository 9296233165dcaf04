"""Dense layers that take a low-rank adapter: y = x W^T + b + scale * (dropout(x) A^T) B^T (LoRA, arXiv 2106.09685).

As in the original's c_attn, the layers wq, wk and wv share one A, whose product is computed once; each has its own
rows of B. A and B are split over the cards as the weight is: B's rows where the layer's outputs are split, A's columns
where its inputs are.
"""

from __future__ import annotations

import math

from mindformers.modules.layers import Linear
from mindspore import Parameter, nn
from mindspore import dtype as mstype
from mindspore import ops as P
from mindspore.common.initializer import Uniform, initializer

__all__ = ["Dense", "Down", "Up", "add_low_rank", "add_shared_low_rank"]

Strategy = tuple[tuple[int, ...], ...]


class Dense(Linear):
    """MindFormers' Linear, y = x W^T (+ b), to which an adapter may be added: see `add_low_rank`.

    Inputs:
        x: [..., in].
        low: [N, rank], x's product with an A that several layers share; None: the layer has its own A, or no adapter.

    Outputs:
        [..., out] in x's dtype.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapted = False
        self.strategy: Strategy = ((1, 1), (1, 1))  # of the product x W^T, for what is added to it

    def shard(self, strategy_matmul, strategy_bias=None, **kwargs):
        """As the host's; remembers the strategy of the product."""
        self.strategy = strategy_matmul
        return super().shard(strategy_matmul=strategy_matmul, strategy_bias=strategy_bias, **kwargs)

    def construct(self, x, low=None):
        if not self.adapted:
            return super().construct(x)
        shape, dtype = (*x.shape[:-1], self.out_channels), x.dtype
        x = self.reshape(self.cast(x, self.dtype), (-1, self.in_channels))
        if low is None:
            low = self.lora_a(x)
        y = self.add(self.matmul(x, self.cast(self.weight, self.dtype)), self.lora_b(low))
        if self.has_bias:
            y = self.bias_add(y, self.cast(self.bias, self.dtype))
        return self.reshape(self.cast(y, dtype), shape)


class Down(nn.Cell):
    """scale * dropout(x) A^T; A [rank, in] starts as in peft, uniform between +-1 / sqrt(in).

    Inputs:
        x: [..., in].

    Outputs:
        [N, rank] in the layer's compute dtype.
    """

    def __init__(self, layer: Dense, rank: int, scale: float, dropout: float, dtype: mstype):
        super().__init__()
        self.in_channels, self.compute_dtype, self.scale, self.drops = (
            layer.in_channels,
            layer.dtype,
            scale,
            dropout > 0,
        )
        rows, columns = layer.strategy[0]
        start = Uniform(1 / math.sqrt(self.in_channels))
        self.weight = Parameter(initializer(start, (rank, self.in_channels), dtype), name="weight")
        self.cast = P.Cast()
        self.reshape = P.Reshape()
        self.matmul = P.MatMul(transpose_b=True).shard(((rows, columns), (1, columns)))
        self.mul = P.Mul().shard(((rows, 1), ()))
        if self.drops:
            self.dropout = nn.Dropout(p=dropout)
            self.dropout.dropout.shard(((rows, columns),))

    def construct(self, x):
        x = self.reshape(self.cast(x, self.compute_dtype), (-1, self.in_channels))
        if self.drops:
            x = self.dropout(x)
        low = self.matmul(x, self.cast(self.weight, self.compute_dtype))
        if self.scale != 1:
            low = self.mul(low, self.cast(self.scale, self.compute_dtype))
        return low


class Up(nn.Cell):
    """low B^T; B [out, rank] starts at zero.

    Inputs:
        low: [N, rank].

    Outputs:
        [N, out].
    """

    def __init__(self, layer: Dense, rank: int, dtype: mstype):
        super().__init__()
        (rows, _), (outputs, _) = layer.strategy
        self.compute_dtype = layer.dtype
        self.weight = Parameter(initializer("zeros", (layer.out_channels, rank), dtype), name="weight")
        self.cast = P.Cast()
        self.matmul = P.MatMul(transpose_b=True).shard(((rows, 1), (outputs, 1)))

    def construct(self, low):
        return self.matmul(low, self.cast(self.weight, self.compute_dtype))


def add_low_rank(layer: Dense, rank: int, scale: float, dropout: float, dtype: mstype, shared: bool = False) -> None:
    """Give `layer` an adapter; with `shared` only a B, since several layers share the A."""
    (rows, _), (outputs, _) = layer.strategy
    if not shared:
        layer.lora_a = Down(layer, rank, scale, dropout, dtype)
    layer.lora_b = Up(layer, rank, dtype)
    layer.add = P.Add().shard(((rows, outputs), (rows, outputs)))
    layer.adapted = True


def add_shared_low_rank(
    owner: nn.Cell, layers: tuple[Dense, ...], rank: int, scale: float, dropout: float, dtype: mstype
) -> None:
    """Give `layers`, which read the same x, a B each and one A, `owner.lora_a`; `owner` passes them its product."""
    owner.lora_a = Down(layers[0], rank, scale, dropout, dtype)
    for layer in layers:
        add_low_rank(layer, rank, scale, dropout, dtype, shared=True)
    owner.adapted = True
