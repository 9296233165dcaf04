"""The key/value cache in blocks, and attention over it: MindFormers' paged operators on Ascend, plain ones on CPU.

Both follow the contract of MindFormers' `generate()`: a cache of `num_blocks * block_size` slots; `slot_mapping` says
where each new token goes (-1: nowhere), `block_tables` which blocks hold a row, in order.
"""

from __future__ import annotations

import math

import numpy as np
from mindformers.modules.paged_attention_mgr import PagedAttentionMgr
from mindspore import Parameter, Tensor, nn
from mindspore import dtype as mstype
from mindspore import ops as P
from mindspore.common.initializer import initializer

from mindformers_qwenvl.model.layers import MergeHeads, SplitHeads
from mindformers_qwenvl.model.ops import fused_or_plain

__all__ = ["cached_attention", "kv_cache"]


def kv_cache(config) -> nn.Cell:
    """The cache of one attention layer.

    Inputs:
        key, value: [B, S, N * D].
        slot_mapping: int32 [B * S].

    Outputs:
        the filled cache, for `cached_attention`.
    """
    return fused_or_plain(PagedCache, PlainCache)(config)


def cached_attention(config, cache: nn.Cell) -> nn.Cell:
    """Attention of the newest token of each row over `cache`.

    Inputs:
        query: [B, 1, N * D].
        stored: what `cache` gave.
        block_tables: int32 [B, M], -1 where a row has fewer blocks.
        valid_length: int32 [B], tokens of each row, including the newest.

    Outputs:
        [B, 1, N * D].
    """
    return fused_or_plain(PagedAttention, PlainCachedAttention)(config, cache)


class PagedCache(nn.Cell):
    """ReshapeAndCache, through the host's manager."""

    def __init__(self, config):
        super().__init__()
        shape = (config.num_blocks, config.block_size, config.num_heads, config.kv_channels)
        self.paged = PagedAttentionMgr(
            config.num_heads, config.kv_channels, config.num_heads, shape, compute_dtype=config.compute_dtype
        )
        self.paged.shard(config.parallel_config)
        # The host (modules/paged_attention_mgr.py) splits keys by rows, but not slot_mapping, which MindSpore keeps
        # whole: with dp > 1 that does not compile. Here each card keeps all rows of its heads, and attends to all rows.
        heads = config.parallel_config.model_parallel
        rows, blocks = (1, 1, heads), (1, 1, heads, 1)
        self.paged.reshape_and_cache.shard((rows, rows, blocks, blocks, (1,)))
        self.paged.paged_attention.shard((rows, blocks, blocks, (1, 1), (1,)))

    def construct(self, key, value, slot_mapping):
        return self.paged(key, value, slot_mapping)


class PagedAttention(nn.Cell):
    """PagedAttention, through the manager of the same layer's cache."""

    def __init__(self, config, cache: PagedCache):
        super().__init__(auto_prefix=False)
        self.paged = cache.paged

    def construct(self, query, stored, block_tables, valid_length):
        return self.paged.paged_attn(P.depend(query, stored), valid_length, block_tables)


class PlainCache(nn.Cell):
    """Two tables with a row for each head of each slot, number slot * N + head, overwritten in place."""

    def __init__(self, config):
        super().__init__()
        self.slots = config.num_blocks * config.block_size
        self.heads, self.head_dim = config.num_heads, config.kv_channels
        # An extra slot receives what slot_mapping sends nowhere.
        shape = ((self.slots + 1) * self.heads, self.head_dim)
        self.key_cache = Parameter(
            initializer("zeros", shape, config.compute_dtype), name="key_cache", requires_grad=False
        )
        self.value_cache = Parameter(
            initializer("zeros", shape, config.compute_dtype), name="value_cache", requires_grad=False
        )
        self.of_head = Tensor(np.arange(self.heads, dtype=np.int32).reshape(1, -1))
        self.update = P.ScatterUpdate()
        self.reshape = P.Reshape()
        self.select = P.Select()
        self.less = P.Less()

    def construct(self, key, value, slot_mapping):
        slots = self.select(self.less(slot_mapping, 0), P.full_like(slot_mapping, self.slots), slot_mapping)
        places = self.reshape(self.reshape(slots, (-1, 1)) * self.heads + self.of_head, (-1,))
        keys = self.update(self.key_cache, places, self.reshape(key, (-1, self.head_dim)))
        values = self.update(self.value_cache, places, self.reshape(value, (-1, self.head_dim)))
        return keys, values


class CachedHeads(nn.Cell):
    """Where each head of each row's blocks [B, M] is, in order: int32 [B, N, M * block_size].

    These are row numbers of `PlainCache`: one Gather gives [B, N, T, D]; rows of all heads would need a transpose.
    """

    def __init__(self, heads: int, block_size: int):
        super().__init__()
        self.heads, self.block_size = heads, block_size
        offsets = np.arange(heads).reshape(1, -1, 1, 1) + heads * np.arange(block_size)
        self.offsets = Tensor(offsets.astype(np.int32))  # [1, N, 1, block_size]
        self.reshape = P.Reshape()
        self.relu = P.ReLU()  # a block of -1 is read as block 0, and masked

    def construct(self, block_tables):
        batch, blocks = block_tables.shape
        first = self.relu(block_tables) * (self.block_size * self.heads)
        places = self.reshape(first, (batch, 1, blocks, 1)) + self.offsets
        return self.reshape(places, (batch, self.heads, blocks * self.block_size))


class PlainCachedAttention(nn.Cell):
    """Gather the rows, then attend to them, with a mask over everything beyond each row's length."""

    def __init__(self, config, _cache: PlainCache):
        super().__init__()
        self.heads, self.head_dim = config.num_heads, config.kv_channels
        self.softmax_type = config.softmax_compute_type
        self.places = CachedHeads(self.heads, config.block_size)
        self.split_heads = SplitHeads(self.heads, self.head_dim, config.parallel_config)
        self.merge_heads = MergeHeads(config.parallel_config)
        self.scale = Tensor(1.0 / math.sqrt(self.head_dim), self.softmax_type)
        self.lowest = Tensor(-1e9 if self.softmax_type != mstype.float16 else -6e4, self.softmax_type)
        self.gather = P.Gather()
        self.cast = P.Cast()
        self.mul = P.Mul()
        self.masked_fill = P.MaskedFill()
        self.scores = P.BatchMatMul(transpose_b=True)
        self.context = P.BatchMatMul()
        self.softmax = P.Softmax(axis=-1)

    def construct(self, query, stored, block_tables, valid_length):
        keys, values = stored
        places = self.places(block_tables)
        keys, values = self.gather(keys, places, 0), self.gather(values, places, 0)  # [B, N, T, D]
        scores = self.scores(self.split_heads(query), keys)  # [B, N, 1, T]
        scores = self.mul(self.cast(scores, self.softmax_type), self.scale)
        position = P.arange(0, places.shape[2], 1).reshape((1, 1, 1, -1))
        outside = position >= valid_length.reshape((-1, 1, 1, 1))
        weights = self.softmax(self.masked_fill(scores, outside, self.lowest))
        return self.merge_heads(self.context(self.cast(weights, query.dtype), values))
