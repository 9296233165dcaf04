"""Rotary position embedding and its tables: a fused operator on Ascend, plain ones on CPU."""

from __future__ import annotations

from mindspore import dtype as mstype
from mindspore import nn
from mindspore import ops as P

from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["Rotary", "RotaryTables"]


class RotaryTables(nn.Cell):
    """Angles [B, 1, S, D / 2] to the two tables [B, 1, S, D] that `Rotary` takes: cos, and sin.

    For the plain form the first half of sin is negative already, so that no layer has to negate half of a head. Where
    nothing is sharded, both are repeated for all heads, [B, N, S, D]: a product that broadcasts takes twice as long.
    """

    def __init__(self, num_heads: int, dp: int = 1):
        super().__init__()
        self.repeats = (1, num_heads, 1, 1) if unsharded() else None
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
        cos, sin = self.concat((cos, cos)), self.concat((first, sin))
        if self.repeats is not None:
            cos, sin = P.tile(cos, self.repeats), P.tile(sin, self.repeats)
        return cos, sin


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
