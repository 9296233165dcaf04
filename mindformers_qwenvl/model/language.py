"""The language model, Qwen-7B (original file: modeling_qwen.py)."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Parameter, nn
from mindspore import ops as P
from mindspore.common.initializer import Normal, initializer

from mindformers_qwenvl.adapters.network import add_adapters
from mindformers_qwenvl.config import QwenConfig
from mindformers_qwenvl.model.angles import RotaryAngles
from mindformers_qwenvl.model.base import QwenPreTrainedModel
from mindformers_qwenvl.model.cache import cached_attention, kv_cache
from mindformers_qwenvl.model.layers import MergeHeads, SplitHeads, column_linear, row_linear, stack
from mindformers_qwenvl.model.ops import (
    MOST_ROWS,
    Attention,
    RMSNorm,
    Rotary,
    decoder_kernel,
    head_kernel,
    reads_by_length,
)

__all__ = ["QwenForCausalLM", "QwenModel"]


class Embedding(nn.Cell):
    """Rows of a table [vocab, H] by token id; the vocabulary is split over the model-parallel cards."""

    def __init__(self, config: QwenConfig):
        super().__init__()
        parallel = config.parallel_config
        dp, mp = parallel.data_parallel, parallel.model_parallel
        self.compute_dtype = config.compute_dtype
        self.cast = P.Cast()
        self.embedding_weight = Parameter(
            initializer(
                Normal(config.initializer_range), (config.vocab_size, config.hidden_size), config.param_init_type
            ),
            name="embedding_weight",
        )
        split = (1, 1) if parallel.vocab_emb_dp else (mp, 1)
        self.gather = P.Gather().shard((split, (dp, 1)))

    def construct(self, input_ids):
        return self.cast(self.gather(self.embedding_weight, input_ids, 0), self.compute_dtype)


class ValidLength(nn.Cell):
    """Tokens of each row [B, S] before its right padding, int32 [B]."""

    def __init__(self, pad_token_id: int, dp: int = 1):
        super().__init__()
        self.pad_token_id = pad_token_id
        self.not_equal = P.NotEqual().shard(((dp, 1), ()))
        self.cast = P.Cast()
        self.mul = P.Mul().shard(((dp, 1), (1,)))
        self.max = P.ReduceMax().shard(((dp, 1),))

    def construct(self, input_ids):
        real = self.cast(self.not_equal(input_ids, self.pad_token_id), ms.float32)
        count = self.cast(P.arange(1, input_ids.shape[1] + 1, 1), ms.float32)
        return self.cast(self.max(self.mul(real, count), 1), ms.int32)


class LastToken(nn.Cell):
    """From hidden states [B, S, H] and lengths [B], those of each row's last token, [B, H]."""

    def __init__(self, dp: int = 1):
        super().__init__()
        self.sub = P.Sub().shard(((dp,), ()))
        self.add = P.Add().shard(((dp,), (dp,)))
        self.gather = P.Gather().shard(((1, 1), (dp,)))
        self.reshape = P.Reshape()

    def construct(self, hidden, valid_length):
        batch, length, width = hidden.shape
        last = self.sub(self.reshape(valid_length, (-1,)), 1)
        last = self.add(last, P.arange(0, batch * length, length))
        return self.gather(self.reshape(hidden, (-1, width)), last, 0)


class Columns(nn.Cell):
    """0, 1, 2, ... for each row of [B, S], int32 [B, S]."""

    def construct(self, input_ids):
        batch, length = input_ids.shape
        return P.tile(P.arange(0, length, 1).reshape((1, -1)), (batch, 1))


class QwenAttention(nn.Cell):
    """Causal self-attention; the original's c_attn is wq, wk, wv (each with a bias), its c_proj is wo."""

    def __init__(self, config: QwenConfig):
        super().__init__()
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        width = config.hidden_size
        self.wq = column_linear(width, width, config)
        self.wk = column_linear(width, width, config)
        self.wv = column_linear(width, width, config)
        self.wo = row_linear(width, width, config, has_bias=False)
        self.adapted = False  # with an adapter of c_attn there is `lora_a`, its A, see adapters/layers.py
        self.rotary = Rotary(config.rotary_dtype, dp, mp)
        self.attention = Attention(
            config.num_heads,
            config.kv_channels,
            causal=True,
            use_flash_attention=config.use_flash_attention,
            softmax_type=config.softmax_compute_type,
            parallel_config=config.parallel_config,
        )
        if config.use_past:
            self.cache = kv_cache(config)
            self.cached_attention = cached_attention(config, self.cache)
        self.split_heads = SplitHeads(config.num_heads, config.kv_channels, config.parallel_config)
        self.merge_heads = MergeHeads(config.parallel_config)
        self.mul = P.Mul().shard(((dp, mp, 1, 1), (dp, 1, 1, 1)))
        self.cast = P.Cast()

    def construct(self, x, angles, past):
        cos, sin, log_n = angles
        low = self.lora_a(x) if self.adapted else None
        q = self.rotary(self.split_heads(self.wq(x, low)), cos, sin)
        k = self.rotary(self.split_heads(self.wk(x, low)), cos, sin)
        v = self.wv(x, low)
        if log_n is not None:
            q = self.mul(q, self.cast(log_n, q.dtype))
        if past is None:
            return self.wo(self.attention(q, k, self.split_heads(v)))
        block_tables, slot_mapping, valid_length = past
        stored = self.cache(self.merge_heads(k), v, slot_mapping)
        if x.shape[1] == 1:  # a prompt has more than one column: this is the newest token of an answer
            return self.wo(self.cached_attention(self.merge_heads(q), stored, block_tables, valid_length))
        return self.wo(self.attention(P.depend(q, stored), k, self.split_heads(v)))


class QwenMLP(nn.Cell):
    """w2(w1(x) * silu(w3(x))); the original calls them w1, w2 (here w3) and c_proj (here w2)."""

    def __init__(self, config: QwenConfig):
        super().__init__()
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        self.w1 = column_linear(config.hidden_size, config.intermediate_size, config, has_bias=False)
        self.w3 = column_linear(config.hidden_size, config.intermediate_size, config, has_bias=False)
        self.w2 = row_linear(config.intermediate_size, config.hidden_size, config, has_bias=False)
        self.sigmoid = P.Sigmoid().shard(((dp, 1, mp),))
        self.mul = P.Mul().shard(((dp, 1, mp), (dp, 1, mp)))

    def construct(self, x):
        gate = self.w3(x)
        gate = self.mul(gate, self.sigmoid(gate))
        return self.w2(self.mul(self.w1(x), gate))


class QwenDecoderLayer(nn.Cell):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); x: [B, S, H]."""

    def __init__(self, config: QwenConfig):
        super().__init__()
        dp = config.parallel_config.data_parallel
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.layernorm_compute_type, dp)
        self.attention = QwenAttention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.layernorm_compute_type, dp)
        self.feed_forward = QwenMLP(config)
        self.add = P.Add().shard(((dp, 1, 1), (dp, 1, 1)))
        self.kernel = None  # see `prepare_decoding`

    def prepare_decoding(self, config: QwenConfig) -> None:
        """Use our own CPU operator for decoding, if it is available. Called after adapters have been added."""
        self.kernel = decoder_kernel(self, config)

    def construct(self, x, angles, past):
        if self.kernel is not None and past is not None and x.shape[1] == 1 and x.shape[0] <= MOST_ROWS:
            cache = self.attention.cache
            caches = (cache.key_cache, cache.value_cache)
            return self.kernel(x, self._weights(), self._adapters(), angles, caches, past)
        x = self.add(x, self.attention(self.attention_norm(x), angles, past))
        return self.add(x, self.feed_forward(self.ffn_norm(x)))

    def _weights(self):
        attention, mlp = self.attention, self.feed_forward
        return (
            self.attention_norm.weight,
            *(attention.wq.weight, attention.wk.weight, attention.wv.weight),
            *(attention.wq.bias, attention.wk.bias, attention.wv.bias),
            attention.wo.weight,
            self.ffn_norm.weight,
            *(mlp.w1.weight, mlp.w3.weight, mlp.w2.weight),
        )

    def _adapters(self):
        attention, mlp = self.attention, self.feed_forward
        nothing = self.kernel.nothing
        found = (nothing, nothing, nothing, nothing)
        if attention.adapted:
            q, k, v = attention.wq, attention.wk, attention.wv
            found = (attention.lora_a.weight, q.lora_b.weight, k.lora_b.weight, v.lora_b.weight)
        for part in (attention.wo, mlp.w1, mlp.w3, mlp.w2):
            pair = (part.lora_a.weight, part.lora_b.weight) if part.adapted else (nothing, nothing)
            found = (*found, *pair)
        return found


class QwenModel(nn.Cell):
    """Embeddings [B, S, H] to hidden states [B, S, H] after the final norm.

    `positions` [B, S] and `prompt_length` [B] are int32; the latter chooses the rotary base in prediction. `past`:
    (block_tables, slot_mapping, valid_length) of the cache, see cache.py, or None.
    """

    def __init__(self, config: QwenConfig):
        super().__init__()
        parallel = config.parallel_config
        self.wte = Embedding(config)
        self.angles = RotaryAngles(config)
        self.layers = stack(QwenDecoderLayer, config.num_layers, config, "llm_model.transformer.layers")
        for layer in self.layers:
            layer.prepare_decoding(config)
        self.ln_f = RMSNorm(
            config.hidden_size, config.rms_norm_eps, config.layernorm_compute_type, parallel.data_parallel
        )

    def construct(self, x, positions, prompt_length, past=None):
        angles = self.angles(positions, prompt_length)
        for layer in self.layers:
            x = layer(x, angles, past)
        return self.ln_f(x)


class QwenForCausalLM(QwenPreTrainedModel):
    """Qwen-7B with its head, on its own or as the language model of `QwenVL`.

    Inputs:
        input_ids: int32 [B, S], right-padded.
        embeddings: [B, S, H], used instead of the embeddings of input_ids.
        prompt_length, batch_valid_length, block_tables, slot_mapping: for prediction, see `QwenVL`.
        positions: int32 [K], the places in the flattened [B * S] for which logits are wanted.

    Outputs:
        logits [B, S, V] in config.compute_dtype, with `batch_valid_length` [B, V], with `positions` [K, V].
    """

    config_class = QwenConfig
    base_model_prefix = "llm_model"

    def __init__(self, config: QwenConfig, **kwargs):
        super().__init__(config, **kwargs)
        parallel = config.parallel_config
        dp = parallel.data_parallel
        self.transformer = QwenModel(config)
        self.lm_head = column_linear(
            config.hidden_size, config.vocab_size, config, has_bias=False, split=not parallel.vocab_emb_dp
        )
        add_adapters(self.lm_head, "llm_model.lm_head", config)
        if parallel.pipeline_stage > 1:
            self.transformer.wte.pipeline_stage = config.start_stage
            self.transformer.ln_f.pipeline_stage = parallel.pipeline_stage - 1
            self.lm_head.pipeline_stage = parallel.pipeline_stage - 1
        self.head_kernel = head_kernel(config)
        self.valid_length = ValidLength(config.pad_token_id, dp)
        self.columns = Columns()
        self.gather = P.Gather()
        self.last_token = LastToken(dp)
        self.sub = P.Sub().shard(((dp,), ()))
        self.reshape = P.Reshape()
        self.load_checkpoint(config)  # the host's method, which loads `checkpoint_name_or_path` if that is set

    def construct(
        self,
        input_ids,
        embeddings=None,
        prompt_length=None,
        batch_valid_length=None,
        block_tables=None,
        slot_mapping=None,
        positions=None,
    ):
        x = self.transformer.wte(input_ids) if embeddings is None else embeddings
        if prompt_length is None:
            prompt_length = self.valid_length(input_ids)
        past = None if slot_mapping is None else (block_tables, slot_mapping, batch_valid_length)
        if past is not None and input_ids.shape[1] == 1:
            columns = self.reshape(self.sub(batch_valid_length, 1), (-1, 1))
            hidden = self.transformer(x, columns, prompt_length, past)
        else:
            hidden = self.transformer(x, self.columns(input_ids), prompt_length, past)
            if batch_valid_length is not None:
                hidden = self.last_token(hidden, batch_valid_length)
            elif positions is not None:
                hidden = self.gather(self.reshape(hidden, (-1, hidden.shape[-1])), positions, 0)
        if self.head_kernel is not None and past is not None and hidden.size <= MOST_ROWS * hidden.shape[-1]:
            return self._head_of_few(hidden)
        return self.lm_head(hidden)

    def reads_by_length(self, rows: int) -> bool:
        """Whether decoding `rows` rows reads only what a row has in the cache, not all that its table could hold."""
        return reads_by_length(self.transformer.layers[0].kernel, rows)

    def _head_of_few(self, hidden):
        logits = self.head_kernel(hidden, self.lm_head.weight)
        if self.lm_head.adapted:
            low = self.lm_head.lora_b(self.lm_head.lora_a(hidden))
            logits = logits + self.reshape(low, logits.shape)
        return logits

    def prepare_inputs_for_predict_layout(self, input_ids: Any, **kwargs: Any) -> tuple[Any, ...]:
        """See `GenerationInputs.layout_inputs`."""
        ids, *generation = self.layout_inputs(input_ids)
        return ids, None, *generation
