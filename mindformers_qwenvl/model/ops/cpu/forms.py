"""Forms of the operators for a CPU without sharding: few passes over memory, gradients in all threads."""

from __future__ import annotations

import math

from mindspore import dtype as mstype
from mindspore import nn
from mindspore import ops as P

__all__ = ["BiasAdd", "DifferentiatedAttention", "DifferentiatedGelu", "RowNorm"]


class BiasAdd(nn.Cell):
    """x + bias for x [R, H] and bias [H], both float32.

    The gradient of the bias, a sum over all rows, is a matrix product: MindSpore's BiasAddGrad runs in one thread.
    """

    def __init__(self):
        super().__init__()
        self.bias_add = P.BiasAdd()
        self.product = P.MatMul()
        self.reshape = P.Reshape()

    def construct(self, x, bias):
        return self.bias_add(x, bias)

    def bprop(self, x, bias, out, dout):
        ones = P.ones((1, x.shape[0]), mstype.float32)
        return dout, self.reshape(self.product(ones, dout), (-1,))


class RowNorm(nn.Cell):
    """c / sqrt(mean(c^2) + eps) * weight (+ bias) over the last axis, c = x - mean(x) if `centred`, else x.

    x and result: float32 [..., H]; weight and bias: float32 [H]. If `centred` it is LayerNorm, otherwise RMSNorm. Sums
    over a row, and numbers repeated along it, are computed as matrix products, which run in all threads.
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

    With s = 1 / sqrt(mean(c^2) + eps) of each row, dx = s * weight * dy - c * s^3 * mean(c * weight * dy), minus the
    row's mean of s * weight * dy if centred.
    """

    def __init__(self, dim: int, eps: float, centred: bool):
        super().__init__()
        self.dim, self.eps, self.centred = dim, eps, centred
        self.product = P.MatMul()
        self.product_transposed_a = P.MatMul(transpose_a=True)
        self.product_transposed_b = P.MatMul(transpose_b=True)
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
        grad_weight = self.product_transposed_a(scale, products)
        share = scale / self.dim
        along = share * scale * scale * self.product_transposed_b(products, weight)
        grad_x = self.sub(self.mul(dy, self.product(scale, weight)), self.mul(centred, self.product(along, self.ones)))
        if self.centred:
            grad_x = self.sub(grad_x, self.product(share * self.product_transposed_b(dy, weight), self.ones))
        return grad_x, grad_weight

    def _centre(self, x, mean):
        return self.sub(x, self.product(mean, self.ones)) if self.centred else x


class DifferentiatedGelu(nn.Cell):
    """GELU whose gradient, dy * (gate(x) + x * density(x)), needs one array to be kept instead of six."""

    def __init__(self, gelu: nn.Cell):
        super().__init__(auto_prefix=False)
        self.gate = gelu.gate
        self.mul, self.add, self.exp = P.Mul(), P.Add(), P.Exp()

    def construct(self, x):
        gate = self.gate(x)
        return self.mul(x, gate), gate

    def bprop(self, x, out, dout):
        density = self.mul(self.exp(self.mul(self.mul(x, -0.5), x)), 1.0 / math.sqrt(2.0 * math.pi))
        return (self.mul(dout[0], self.add(out[1], self.mul(x, density))),)


class DifferentiatedAttention(nn.Cell):
    """softmax(q k^T) v, float32. Its gradient needs fewer passes over the scores than the one that MindSpore derives.

    The softmax P needs dS = P * (dP - rowsum(P * dP)), and rowsum(P * dP) = rowsum(dO * O) (Dao et al. 2022,
    FlashAttention, appendix B.2), which is small. An extra column of dO and v subtracts it within dP = dO v^T. On a
    CPU, a subtraction that broadcasts would also keep, for each layer, three index tables as large as the scores.
    """

    def __init__(self, weights: nn.Cell):
        super().__init__(auto_prefix=False)
        self.weights = weights
        self.product = P.BatchMatMul()
        self.product_transposed_a = P.BatchMatMul(transpose_a=True)
        self.product_transposed_b = P.BatchMatMul(transpose_b=True)
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
        grad_scores = self.product_transposed_b(self.concat((dout[0], row_sums)), self.concat((v, minus_one)))
        grad_scores = self.mul(weights, grad_scores)
        grad_q, grad_k = self.product(grad_scores, k), self.product_transposed_a(grad_scores, q)
        return grad_q, grad_k, self.product_transposed_a(weights, dout[0])
