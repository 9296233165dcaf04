"""The norms: RMSNorm of the language model, and what a CPU needs to compute it and LayerNorm fast.

Ascend has a fused RMSNorm. A CPU has a LayerNorm of one thread, and operators that broadcast at a quarter of the speed
of those that do not.
"""

from __future__ import annotations

from mindspore import Parameter, nn
from mindspore import dtype as mstype
from mindspore import ops as P
from mindspore.common.initializer import initializer

from mindformers_qwenvl.model.ops.bias import BiasAdd
from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["RMSNorm", "RowNorm", "row_norm"]


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
        self.rows = None
        if self.fused:
            self.norm = P.RmsNorm(eps).shard(((dp, 1, 1), (1,)))
        else:
            self.rows = row_norm(dim, eps, compute_type, centred=False)
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
        elif self.rows is not None and x.shape[1] > 1:  # a single token has nothing to share out
            x = self.rows(x, self.weight)
        else:
            x = self.scale(x, self.rsqrt(self.add(self.mean(self.square(x), -1), self.eps)))
            x = self.mul(x, self.weight)
        return self.cast(x, dtype)


def row_norm(dim: int, eps: float, compute_type: mstype.Type, centred: bool) -> RowNorm | None:
    """A `RowNorm` where it may be used: float32 on a CPU, without sharding."""
    return RowNorm(dim, eps, centred) if unsharded() and compute_type == mstype.float32 else None


class RowNorm(nn.Cell):
    """c / sqrt(mean(c^2) + eps) * weight (+ bias) over the last axis, c = x - mean(x) if `centred`, else x.

    x and result: float32 [..., H]; weight and bias: float32 [H]. `centred` it is LayerNorm, otherwise RMSNorm. Sums
    over a row and numbers repeated along one are matrix products, which run in all threads.
    """

    def __init__(self, dim: int, eps: float, centred: bool):
        super().__init__()
        self.differentiated = DifferentiatedRowNorm(dim, eps, centred)
        self.bias_add = BiasAdd()
        self.reshape = P.Reshape()

    def construct(self, x, weight, bias=None):
        rows = self.reshape(x, (-1, x.shape[-1]))
        normed = self.differentiated(rows, self.reshape(weight, (1, -1)))[0]
        if bias is not None:
            normed = self.bias_add(normed, bias)
        return self.reshape(normed, x.shape)


class DifferentiatedRowNorm(nn.Cell):
    """`RowNorm` of x [R, H] by weight [1, H], with its gradient (Ba et al. 2016, Layer Normalization, for the centred).

    With s = 1 / sqrt(mean(c^2) + eps) of each row, dx = s * weight * dy - c * s^3 * mean(c * weight * dy), less the
    row's mean of s * weight * dy if centred.
    """

    def __init__(self, dim: int, eps: float, centred: bool):
        super().__init__()
        self.dim, self.eps, self.centred = dim, eps, centred
        self.product = P.MatMul()
        self.product_of_first_turned = P.MatMul(transpose_a=True)
        self.product_of_second_turned = P.MatMul(transpose_b=True)
        self.mul, self.sub = P.Mul(), P.Sub()
        self.square, self.rsqrt = P.Square(), P.Rsqrt()
        self.reshape = P.Reshape()
        self.ones = P.ones((1, dim), mstype.float32)
        self.mean = P.full((dim, 1), 1.0 / dim, dtype=mstype.float32)

    def construct(self, x, weight):
        mean = self.product(x, self.mean) if self.centred else None
        centred = self._centre(x, mean)
        scale = self.rsqrt(self.product(self.square(centred), self.mean) + self.eps)  # [R, 1]
        return self.mul(centred, self.product(scale, weight)), scale, mean

    def bprop(self, x, weight, out, dout):
        _, scale, mean = out
        dy = dout[0]
        centred = self._centre(x, mean)
        products = self.mul(dy, centred)
        of_weight = self.product_of_first_turned(scale, products)
        share = scale / self.dim
        along = share * scale * scale * self.product_of_second_turned(products, weight)
        of_x = self.sub(self.mul(dy, self.product(scale, weight)), self.mul(centred, self.product(along, self.ones)))
        if self.centred:
            of_x = self.sub(of_x, self.product(share * self.product_of_second_turned(dy, weight), self.ones))
        return of_x, of_weight

    def _centre(self, x, mean):
        return self.sub(x, self.product(mean, self.ones)) if self.centred else x
