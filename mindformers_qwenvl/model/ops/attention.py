"""Attention of all three parts: fused on Ascend, plain on CPU, with a cheaper gradient where nothing is sharded."""

from __future__ import annotations

import math

import numpy as np
from mindformers.modules.flash_attention import FlashAttention
from mindspore import Tensor, nn
from mindspore import dtype as mstype
from mindspore import ops as P

from mindformers_qwenvl.model.ops.cpu.forms import DifferentiatedAttention
from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["Attention"]

FLASH_MASK = 2048  # side of the compressed causal mask that FlashAttentionScore takes in sparse mode 2
LARGE_SCORES = 512**2  # from this many scores per head on, heads are computed one by one, to fit into the cache


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(D)) v with q [B, N, S, D], k and v [B, N, T, D]; result [B, S, N * D].

    Args:
        num_heads: N.
        head_dim: D.
        causal: position s only sees positions t <= s. S must equal T.
        use_flash_attention: the fused operator on Ascend (float16 and bfloat16 only); ignored on CPU.
        softmax_type: dtype of the softmax of the plain form.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        use_flash_attention: bool = False,
        softmax_type: mstype.Type = mstype.float32,
        parallel_config=None,
    ):
        super().__init__()
        dp = parallel_config.data_parallel if parallel_config else 1
        mp = parallel_config.model_parallel if parallel_config else 1
        heads = (dp, mp, 1, 1)
        self.heads, self.hidden = num_heads, num_heads * head_dim
        self.causal = causal
        self.softmax_type = softmax_type
        self.cast = P.Cast()
        self.reshape = P.Reshape()
        self.transpose = P.Transpose().shard((heads,))
        self.flash = use_flash_attention and on_ascend()
        scale = 1.0 / math.sqrt(head_dim)
        if self.flash:
            self.flash_attention = FlashAttention(
                head_num=num_heads,
                scale_value=scale,
                input_layout="BNSD",
                sparse_mode=2 if causal else 0,
                use_attention_mask=causal,
            )
            self.flash_attention.shard(parallel_config)
            if causal:
                self.mask = Tensor(np.triu(np.ones((FLASH_MASK, FLASH_MASK), np.uint8), 1))
        else:
            self.factor = scale
            self.scale = P.Mul().shard((heads, ()))
            self.weights = AttentionWeights(causal, softmax_type, heads)
            self.context = P.BatchMatMul().shard((heads, heads))
            self.one_by_one = unsharded()
            if self.one_by_one:
                self.split = P.Split(axis=1, output_num=num_heads)
                self.concat = P.Concat(axis=1)
                self.differentiated = DifferentiatedAttention(self.weights)

    def construct(self, q, k, v):
        if self.flash:
            out = self.flash_attention(q, k, v, self.mask if self.causal else None)
        else:
            q = self.scale(q, self.factor)
            if self.one_by_one and not self.training and q.shape[2] * k.shape[2] >= LARGE_SCORES:
                out, qs, ks, vs = (), self.split(q), self.split(k), self.split(v)
                for head in range(self.heads):
                    out += (self.plain(qs[head], ks[head], vs[head]),)
                out = self.concat(out)
            else:
                out = self.plain(q, k, v)
        out = self.transpose(out, (0, 2, 1, 3))
        return self.reshape(out, (out.shape[0], out.shape[1], self.hidden))

    def plain(self, q, k, v):
        """softmax(q k^T) v, for q that has been scaled."""
        if self.one_by_one and self.training and q.dtype == mstype.float32 == self.softmax_type:
            return self.differentiated(q, k, v)[0]
        return self.context(self.cast(self.weights(q, k), v.dtype), v)


class AttentionWeights(nn.Cell):
    """softmax(q k^T) in `softmax_type`: [B, N, S, T]. If `causal`, only over columns not later than the row."""

    def __init__(self, causal: bool, softmax_type: mstype.Type, heads: tuple[int, ...]):
        super().__init__()
        self.causal, self.softmax_type = causal, softmax_type
        self.cast = P.Cast()
        self.scores = P.BatchMatMul(transpose_b=True).shard((heads, heads))
        self.greater = P.Greater().shard(((1, 1), (1, 1)))
        self.masked_fill = P.MaskedFill().shard((heads, (1, 1), ()))
        self.repeats = unsharded()  # adding one mask for all heads and layers takes a quarter of MaskedFill's time
        self.softmax = P.Softmax(axis=-1).shard((heads,))
        self.lowest = Tensor(-1e9 if softmax_type != mstype.float16 else -6e4, softmax_type)

    def construct(self, q, k):
        scores = self.cast(self.scores(q, k), self.softmax_type)
        if self.causal:
            position = P.arange(0, q.shape[2], 1)
            later = self.greater(position.reshape((1, -1)), position.reshape((-1, 1)))
            if self.repeats:
                mask = self.cast(later, self.softmax_type) * self.lowest
                scores = scores + P.tile(mask.reshape((1, 1, *mask.shape)), (*q.shape[:2], 1, 1))
            else:
                scores = self.masked_fill(scores, later, self.lowest)
        return self.softmax(scores)
