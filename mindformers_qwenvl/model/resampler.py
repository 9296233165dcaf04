"""The resampler: learnt queries read the patches through one cross-attention (original file: visual.py, Resampler)."""

from __future__ import annotations

import math

from mindspore import Parameter, Tensor, nn
from mindspore import ops as P
from mindspore.common.initializer import TruncatedNormal, Uniform, initializer

from mindformers_qwenvl.config import QwenVLVisionConfig
from mindformers_qwenvl.config.sizes import RESAMPLER_HEAD_DIM
from mindformers_qwenvl.model.layers import Norm, ResizedTable, SplitHeads, column_linear, row_linear
from mindformers_qwenvl.model.ops import Attention
from mindformers_qwenvl.model.positions import sincos_table

__all__ = ["Resampler"]


class CrossAttention(nn.Cell):
    """Attention of q [B, Q, D] over k and v [B, P, D], all three with a bias (torch's MultiheadAttention)."""

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dim = config.output_dim
        heads = dim // RESAMPLER_HEAD_DIM
        # torch's MultiheadAttention initialises its fused projection [3 D, D] by Xavier's rule, and so its three parts.
        xavier = Uniform(math.sqrt(6 / (dim + 3 * dim)))
        self.wq = column_linear(dim, dim, config, weight_init=xavier)
        self.wk = column_linear(dim, dim, config, weight_init=xavier)
        self.wv = column_linear(dim, dim, config, weight_init=xavier)
        self.wo = row_linear(dim, dim, config)
        self.attention = Attention(
            heads,
            RESAMPLER_HEAD_DIM,
            use_flash_attention=config.use_flash_attention,
            softmax_type=config.softmax_compute_type,
            parallel_config=config.parallel_config,
        )
        self.split_heads = SplitHeads(heads, RESAMPLER_HEAD_DIM, config.parallel_config)

    def construct(self, q, k, v):
        q, k, v = self.split_heads(self.wq(q)), self.split_heads(self.wk(k)), self.split_heads(self.wv(v))
        return self.wo(self.attention(q, k, v))


class Resampler(nn.Cell):
    """Patches [B, P, width] to [B, Q, output_dim].

    q = ln_q(query) + table; k = ln_kv(kv_proj(x)) + table resized to the patches; v = ln_kv(kv_proj(x)), without a
    position. `query` is trained; the sine/cosine table never is.
    """

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dp = config.parallel_config.data_parallel
        queries, dim = config.num_queries, config.output_dim
        self.pos_embed = Parameter(
            Tensor(sincos_table(dim, math.isqrt(queries)), config.param_init_type),
            name="pos_embed",
            requires_grad=False,
            parallel_optimizer=False,
        )
        self.query = Parameter(
            initializer(TruncatedNormal(0.02), (queries, dim), config.param_init_type),
            name="query",
            parallel_optimizer=False,
        )
        # If the widths agree, the original has no projection at all.
        self.projects = config.hidden_size != dim
        if self.projects:
            self.kv_proj = column_linear(config.hidden_size, dim, config, has_bias=False)
        self.resized = ResizedTable(queries, config.num_patches)
        self.ln_q = Norm(dim, config, (1, 1))
        self.ln_kv = Norm(dim, config, (dp, 1, 1))
        self.attn = CrossAttention(config)
        self.add_table = P.Add().shard(((dp, 1, 1), (1, 1)))
        self.add_query = P.Add().shard(((1, 1), (1, 1)))
        self.tile = P.Tile().shard(((1, 1, 1),))
        self.expand = P.ExpandDims().shard(((1, 1),))
        self.cast = P.Cast()

    def construct(self, x):
        if self.projects:
            x = self.kv_proj(x)
        x = self.ln_kv(x)
        table = self.cast(self.pos_embed, x.dtype)
        query = self.add_query(self.ln_q(self.cast(self.query, x.dtype)), table)
        query = self.tile(self.expand(query, 0), (x.shape[0], 1, 1))
        key = self.add_table(x, self.resized(table))
        return self.attn(query, key, x)
