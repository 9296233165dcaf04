"""The device seam: the operators that differ between Ascend (fused) and CPU (plain). Nothing else asks for the device.

Every cell computes in the shapes its docstring gives, on either device, and takes its sharding strategy as `dp`, `mp`.
"""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindformers.modules.flash_attention import FlashAttention
from mindspore import Parameter, Tensor, mint, nn
from mindspore import dtype as mstype
from mindspore import ops as P
from mindspore.common.initializer import initializer

__all__ = ["Attention", "Gelu", "RMSNorm", "Rotary", "RotaryTables", "greedy_argmax", "on_ascend", "unsharded"]

FLASH_MASK = 2048  # side of the compressed causal mask that FlashAttentionScore takes in sparse mode 2
LARGE_SCORES = 512**2  # scores of one head from which on heads go one by one, so that a processor's cache holds them


def on_ascend() -> bool:
    return ms.get_context("device_target") == "Ascend"


def unsharded() -> bool:
    """Whether shapes may depend on data and heads be taken apart: not on Ascend, nor where operators are split."""
    mode = ms.get_auto_parallel_context("parallel_mode")
    return not on_ascend() and mode not in ("semi_auto_parallel", "auto_parallel")


class RMSNorm(nn.Cell):
    """x / rms(x) * weight, computed in `compute_type`; x and result: [B, S, H] of one dtype.

    Original: modeling_qwen.py, RMSNorm (norm in float32, cast back, then times weight).
    """

    def __init__(self, dim: int, eps: float, compute_type: mstype.Type, dp: int = 1):
        super().__init__()
        self.weight = Parameter(initializer("ones", (dim,), compute_type), name="weight", parallel_optimizer=False)
        self.compute_type = compute_type
        self.eps = eps
        self.cast = P.Cast()
        self.fused = on_ascend()
        if self.fused:
            self.norm = P.RmsNorm(eps).shard(((dp, 1, 1), (1,)))
        else:
            self.square = P.Square().shard(((dp, 1, 1),))
            self.mean = P.ReduceMean(keep_dims=True).shard(((dp, 1, 1),))
            self.add = P.Add().shard(((dp, 1, 1), ()))
            self.rsqrt = P.Rsqrt().shard(((dp, 1, 1),))
            self.scale = P.Mul().shard(((dp, 1, 1), (dp, 1, 1)))
            self.mul = P.Mul().shard(((dp, 1, 1), (1,)))

    def construct(self, x):
        dtype = x.dtype
        x = self.cast(x, self.compute_type)
        if self.fused:
            x = self.norm(x, self.weight)[0]
        else:
            x = self.scale(x, self.rsqrt(self.add(self.mean(self.square(x), -1), self.eps)))
            x = self.mul(x, self.weight)
        return self.cast(x, dtype)


class RotaryTables(nn.Cell):
    """Angles [B, 1, S, D / 2] to the two tables [B, 1, S, D] that `Rotary` takes: cos, and sin.

    For the plain form sin's first half is negative already, so that no layer has to negate half of its heads.
    """

    def __init__(self, dp: int = 1):
        super().__init__()
        strategy = (dp, 1, 1, 1)
        self.concat = P.Concat(axis=-1).shard((strategy, strategy))
        self.cos = P.Cos().shard((strategy,))
        self.sin = P.Sin().shard((strategy,))
        self.fused = on_ascend()
        if not self.fused:
            self.neg = P.Neg().shard((strategy,))

    def construct(self, angles):
        cos, sin = self.cos(angles), self.sin(angles)
        first = sin if self.fused else self.neg(sin)
        return self.concat((cos, cos)), self.concat((first, sin))


class Rotary(nn.Cell):
    """Half-rotation rotary embedding of x [B, N, S, D] by `RotaryTables` (original: apply_rotary_pos_emb)."""

    def __init__(self, compute_type: mstype.Type, dp: int = 1, mp: int = 1):
        super().__init__()
        self.compute_type = compute_type
        self.cast = P.Cast()
        heads, angles = (dp, mp, 1, 1), (dp, 1, 1, 1)
        self.fused = on_ascend()
        if self.fused:
            self.rotate = P.auto_generate.RotaryPositionEmbedding().shard((heads, angles, angles))
        else:
            self.split = P.Split(axis=-1, output_num=2).shard((heads,))
            self.concat = P.Concat(axis=-1).shard((heads, heads))
            self.mul = P.Mul().shard((heads, angles))
            self.add = P.Add().shard((heads, heads))

    def construct(self, x, cos, sin):
        dtype = x.dtype
        x = self.cast(x, self.compute_type)
        if self.fused:
            x = self.rotate(x, cos, sin, 0)
        else:
            first, second = self.split(x)
            swapped = self.concat((second, first))
            x = self.add(self.mul(x, cos), self.mul(swapped, sin))
        return self.cast(x, dtype)


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


class DifferentiatedGelu(nn.Cell):
    """GELU whose gradient, dy * (gate(x) + x * density(x)), keeps one array for it and not six."""

    def __init__(self, gelu: Gelu):
        super().__init__(auto_prefix=False)
        self.gate = gelu.gate
        self.mul, self.add, self.exp = P.Mul(), P.Add(), P.Exp()

    def construct(self, x):
        gate = self.gate(x)
        return self.mul(x, gate), gate

    def bprop(self, x, out, dout):
        density = self.mul(self.exp(self.mul(self.mul(x, -0.5), x)), 1.0 / math.sqrt(2.0 * math.pi))
        return (self.mul(dout[0], self.add(out[1], self.mul(x, density))),)


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(D)) v with q [B, N, S, D], k and v [B, N, T, D]; result [B, S, N * D].

    Args:
        num_heads: N.
        head_dim: D.
        causal: position s sees positions t <= s only. S must equal T.
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
        """softmax(q k^T) v, for q that is scaled already."""
        if self.one_by_one and self.training and q.dtype == mstype.float32 == self.softmax_type:
            return self.differentiated(q, k, v)[0]
        return self.context(self.cast(self.weights(q, k), v.dtype), v)


class AttentionWeights(nn.Cell):
    """softmax(q k^T) in `softmax_type`, with `causal` over what comes no later than the row: [B, N, S, T]."""

    def __init__(self, causal: bool, softmax_type: mstype.Type, heads: tuple[int, ...]):
        super().__init__()
        self.causal, self.softmax_type = causal, softmax_type
        self.cast = P.Cast()
        self.scores = P.BatchMatMul(transpose_b=True).shard((heads, heads))
        self.greater = P.Greater().shard(((1, 1), (1, 1)))
        self.masked_fill = P.MaskedFill().shard((heads, (1, 1), ()))
        self.softmax = P.Softmax(axis=-1).shard((heads,))
        self.lowest = Tensor(-1e9 if softmax_type != mstype.float16 else -6e4, softmax_type)

    def construct(self, q, k):
        scores = self.cast(self.scores(q, k), self.softmax_type)
        if self.causal:
            position = P.arange(0, q.shape[2], 1)
            later = self.greater(position.reshape((1, -1)), position.reshape((-1, 1)))
            scores = self.masked_fill(scores, later, self.lowest)
        return self.softmax(scores)


class DifferentiatedAttention(nn.Cell):
    """softmax(q k^T) v, float32, with a gradient of fewer passes over the scores than the one MindSpore derives.

    The softmax P needs dS = P * (dP - rowsum(P * dP)), and rowsum(P * dP) = rowsum(dO * O) (Dao et al. 2022,
    FlashAttention, appendix B.2), which is small. One more column of dO and v subtracts it within dP = dO v^T. On a CPU
    a subtraction that broadcasts would also keep three index tables of the size of the scores for each layer.
    """

    def __init__(self, weights: AttentionWeights):
        super().__init__(auto_prefix=False)
        self.weights = weights
        self.product = P.BatchMatMul()
        self.product_of_first_turned = P.BatchMatMul(transpose_a=True)
        self.product_of_second_turned = P.BatchMatMul(transpose_b=True)
        self.mul = P.Mul()
        self.sum = P.ReduceSum(keep_dims=True)
        self.concat = P.Concat(axis=-1)

    def construct(self, q, k, v):
        weights = self.weights(q, k)
        return self.product(weights, v), weights

    def bprop(self, q, k, v, out, dout):
        context, weights = out
        row_sums = self.sum(self.mul(dout[0], context), -1)
        minus_one = P.full((*v.shape[:-1], 1), -1.0, dtype=mstype.float32)
        of_scores = self.product_of_second_turned(self.concat((dout[0], row_sums)), self.concat((v, minus_one)))
        of_scores = self.mul(weights, of_scores)
        of_q, of_k = self.product(of_scores, k), self.product_of_first_turned(of_scores, q)
        return of_q, of_k, self.product_of_first_turned(weights, dout[0])


def greedy_argmax():
    """The argmax of greedy search: the host's `mint.argmax` has no CPU kernel."""
    return mint.argmax if on_ascend() else P.argmax
