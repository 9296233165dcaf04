"""Layers that the vision tower and the language model share, each with its sharding strategy."""

from __future__ import annotations

from mindformers.modules.layers import LayerNorm
from mindformers.parallel_core.training_graph.transformer.utils import LayerSetting
from mindspore import Tensor, nn
from mindspore import ops as P
from mindspore.common.initializer import Initializer, Normal

from mindformers_qwenvl.adapters.layers import Dense
from mindformers_qwenvl.adapters.network import add_adapters
from mindformers_qwenvl.model.ops import bias_add, row_norm
from mindformers_qwenvl.model.positions import resize_matrix

__all__ = ["MergeHeads", "Norm", "ResizedTable", "SplitHeads", "column_linear", "row_linear", "stack"]

Strategy = tuple[tuple[int, ...], ...]


def column_linear(
    in_channels: int,
    out_channels: int,
    config,
    has_bias: bool = True,
    weight_init: Initializer | None = None,
    split: bool = True,
) -> Dense:
    """y = x W^T (+ b), W's rows (the outputs) split over the model-parallel cards, or with `split=False` whole on each.

    W is initialised by a normal distribution with config.initializer_range, unless `weight_init` says otherwise.
    """
    dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel if split else 1
    linear = _linear(in_channels, out_channels, config, has_bias, weight_init)
    return _shard(linear, ((dp, 1), (mp, 1)), ((dp, mp), (mp,)))


def row_linear(in_channels: int, out_channels: int, config, has_bias: bool = True) -> Dense:
    """y = x W^T (+ b), W's columns (the inputs) split over the model-parallel cards: the other half of a pair."""
    dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
    linear = _linear(in_channels, out_channels, config, has_bias)
    return _shard(linear, ((dp, mp), (1, mp)), ((dp, 1), (1,)))


def _linear(
    in_channels: int, out_channels: int, config, has_bias: bool, weight_init: Initializer | None = None
) -> Dense:
    return Dense(
        in_channels,
        out_channels,
        has_bias=has_bias,
        weight_init=weight_init or Normal(config.initializer_range),
        compute_dtype=config.compute_dtype,
        param_init_type=config.param_init_type,
    )


def _shard(linear: Dense, of_product: Strategy, of_bias: Strategy) -> Dense:
    linear.shard(strategy_matmul=of_product, strategy_bias=of_bias if linear.has_bias else None)
    if linear.has_bias:
        linear.bias_add = bias_add(linear.dtype, of_bias)
    return linear


def stack(layer: type[nn.Cell], count: int, config, name: str) -> nn.CellList:
    """`count` times `layer(config)`, each with its adapters, on its pipeline stage and with its recompute setting.

    `name`: the name of the list in `QwenVL`, which tells what its layers are called in the original.
    """
    place = LayerSetting(
        count, config.offset, config.parallel_config, start_stage=config.start_stage, stage_num=config.stage_num
    )
    layers = nn.CellList([layer(config) for _ in range(count)])
    for index, cell in enumerate(layers):
        add_adapters(cell, f"{name}.{index}", config)
        place(cell, index)
    return layers


class Norm(LayerNorm):
    """LayerNorm over the last axis in config.layernorm_compute_type; result in x's dtype. `strategy`: that of x."""

    def __init__(self, dim: int, config, strategy: tuple[int, ...]):
        super().__init__((dim,), eps=config.layer_norm_eps, param_init_type=config.layernorm_compute_type)
        self.shard((strategy,))
        self.compute_type = config.layernorm_compute_type
        self.cast = P.Cast()
        self.row_norm = row_norm(dim, config.layer_norm_eps, self.compute_type, centred=True)

    def construct(self, x):
        dtype = x.dtype
        x = self.cast(x, self.compute_type)
        if self.row_norm is not None:
            normed = self.row_norm(x, self.gamma, self.beta)
        else:
            normed, _, _ = self.layer_norm(x, self.gamma, self.beta)
        return self.cast(normed, dtype)


class SplitHeads(nn.Cell):
    """[B, S, N * D] to [B, N, S, D]."""

    def __init__(self, heads: int, head_dim: int, parallel_config):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.reshape = P.Reshape()
        self.transpose = P.Transpose().shard(((parallel_config.data_parallel, 1, parallel_config.model_parallel, 1),))

    def construct(self, x):
        x = self.reshape(x, (x.shape[0], x.shape[1], self.heads, self.head_dim))
        return self.transpose(x, (0, 2, 1, 3))


class MergeHeads(nn.Cell):
    """[B, N, S, D] to [B, S, N * D]."""

    def __init__(self, parallel_config):
        super().__init__()
        self.reshape = P.Reshape()
        self.transpose = P.Transpose().shard(((parallel_config.data_parallel, parallel_config.model_parallel, 1, 1),))

    def construct(self, x):
        x = self.transpose(x, (0, 2, 1, 3))
        return self.reshape(x, (x.shape[0], x.shape[1], x.shape[2] * x.shape[3]))


class ResizedTable(nn.Cell):
    """A square position table [rows, dim] resized to `target_rows` positions; the table itself if the numbers agree."""

    def __init__(self, rows: int, target_rows: int):
        super().__init__()
        matrix = resize_matrix(rows, target_rows)
        self.resizes = matrix is not None
        if self.resizes:
            self.matrix = Tensor(matrix)
            self.matmul = P.MatMul().shard(((1, 1), (1, 1)))
            self.cast = P.Cast()

    def construct(self, table):
        if self.resizes:
            return self.cast(self.matmul(self.matrix, self.cast(table, self.matrix.dtype)), table.dtype)
        return table
