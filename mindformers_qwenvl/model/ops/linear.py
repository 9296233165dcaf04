"""The bias of a linear layer."""

from __future__ import annotations

from mindspore import dtype as mstype
from mindspore import nn
from mindspore import ops as P
from mindspore.ops import Primitive

from mindformers_qwenvl.model.ops.cpu.forms import BiasAdd
from mindformers_qwenvl.model.ops.device import unsharded

__all__ = ["bias_add"]


def bias_add(dtype: mstype.Type, strategy: tuple[tuple[int, ...], ...]) -> Primitive | nn.Cell:
    """x + bias for x [R, H] and bias [H] of `dtype`, split by `strategy`: the host's P.Add takes twice as long on a
    CPU."""
    if unsharded() and dtype == mstype.float32:
        return BiasAdd()
    return P.BiasAdd().shard(strategy)
