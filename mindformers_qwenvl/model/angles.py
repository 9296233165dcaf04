"""Rotary angles of the language model, as cells (original file: modeling_qwen.py)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn
from mindspore import ops as P

from mindformers_qwenvl.config import QwenConfig
from mindformers_qwenvl.model.ops import RotaryTables
from mindformers_qwenvl.model.positions import inverse_frequencies, log_n_scale, ntk_limits

__all__ = ["RotaryAngles"]


class RotaryAngles(nn.Cell):
    """What `Rotary` takes for positions [B, S], see `RotaryTables`, and the query's logn scale [B, 1, S, 1].

    In prediction, each row takes the base that dynamic NTK gives its prompt length [B]; in training, base and scale are
    the plain ones (original: QWenModel.forward and RotaryEmbedding).
    """

    def __init__(self, config: QwenConfig):
        super().__init__()
        dp = config.parallel_config.data_parallel
        limits = ntk_limits(config.train_seq_length, config.seq_length) if config.use_dynamic_ntk else []
        self.levels = len(limits) + 1
        frequencies = inverse_frequencies(config.kv_channels, config.rotary_emb_base, self.levels)
        self.frequencies = Tensor(frequencies)
        self.trained_frequencies = Tensor(frequencies[0].reshape(1, 1, 1, -1))
        if self.levels > 1:
            self.limits = Tensor(limits)
        self.scales = config.use_logn_attn and config.seq_length > config.train_seq_length
        if self.scales:
            self.log_n = Tensor(log_n_scale(config.train_seq_length, config.seq_length))
        self.cast = P.Cast()
        self.gather = P.Gather().shard(((1, 1), (dp,)))
        self.gather_log_n = P.Gather().shard(((1,), (dp, 1)))
        self.greater = P.Greater().shard(((dp, 1), (1, 1)))
        self.sum = P.ReduceSum().shard(((dp, 1),))
        self.mul = P.Mul().shard(((dp, 1, 1, 1), (1, 1, 1, 1)))
        self.mul_rows = P.Mul().shard(((dp, 1, 1, 1), (dp, 1, 1, 1)))
        self.tables = RotaryTables(config.num_heads, dp)
        self.reshape = P.Reshape()

    def construct(self, positions, prompt_length):
        batch, length = positions.shape
        columns = self.reshape(self.cast(positions, ms.float32), (batch, 1, length, 1))
        if self.training or self.levels == 1:
            angles = self.mul(columns, self.trained_frequencies)
        else:
            beyond = self.greater(self.reshape(prompt_length, (-1, 1)), self.reshape(self.limits, (1, -1)))
            level = self.cast(self.sum(self.cast(beyond, ms.float32), 1), ms.int32)
            frequencies = self.reshape(self.gather(self.frequencies, level, 0), (batch, 1, 1, -1))
            angles = self.mul_rows(columns, frequencies)
        cos, sin = self.tables(angles)
        log_n = None
        if self.scales and not self.training:
            log_n = self.reshape(self.gather_log_n(self.log_n, positions, 0), (batch, 1, length, 1))
        return cos, sin, log_n
