"""The norms: RMSNorm of the language model, and what a CPU needs to compute it and LayerNorm fast.

Ascend has a fused RMSNorm. On a CPU, MindSpore's LayerNorm runs in one thread, and operators take four times as long
when they broadcast.
"""

from __future__ import annotations

from mindspore import Parameter, nn
from mindspore import dtype as mstype
from mindspore import ops as P
from mindspore.common.initializer import initializer

from mindformers_qwenvl.model.ops.cpu.forms import RowNorm
from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["RMSNorm", "row_norm"]


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
        self.row_norm = None
        if self.fused:
            self.norm = P.RmsNorm(eps).shard(((dp, 1, 1), (1,)))
        else:
            self.row_norm = row_norm(dim, eps, compute_type, centred=False)
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
        elif self.row_norm is not None and x.shape[1] > 1:  # a single token gives the threads nothing to share
            x = self.row_norm(x, self.weight)
        else:
            x = self.scale(x, self.rsqrt(self.add(self.mean(self.square(x), -1), self.eps)))
            x = self.mul(x, self.weight)
        return self.cast(x, dtype)


def row_norm(dim: int, eps: float, compute_type: mstype.Type, centred: bool) -> RowNorm | None:
    """A `RowNorm` where it may be used: float32 on a CPU, without sharding."""
    return RowNorm(dim, eps, centred) if unsharded() and compute_type == mstype.float32 else None
