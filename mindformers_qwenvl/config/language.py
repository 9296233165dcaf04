"""Configuration of the language model."""

from __future__ import annotations

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.models.utils import convert_mstype
from mindformers.modules.transformer import TransformerOpParallelConfig

from mindformers_qwenvl.config.checks import as_parallel_config, require_split

__all__ = ["QwenConfig"]


class QwenConfig(PretrainedConfig):
    """The language model, Qwen-7B (original file: configuration_qwen.py)."""

    model_type = "qwen"

    def __init__(
        self,
        batch_size: int = 1,
        seq_length: int = 2048,  # longest sequence this network is built for
        train_seq_length: int = 2048,  # length the weights were trained on: dynamic NTK and logn begin beyond it
        hidden_size: int = 4096,
        num_layers: int = 32,
        num_heads: int = 32,
        kv_channels: int = 128,  # size of a head
        intermediate_size: int = 11008,  # width of one of the two MLP branches: half of the original config.json's
        vocab_size: int = 151936,
        rms_norm_eps: float = 1e-6,
        rotary_emb_base: float = 10000.0,
        rotary_pct: float = 1.0,
        use_dynamic_ntk: bool = True,  # in prediction
        use_logn_attn: bool = True,  # in prediction
        emb_dropout_prob: float = 0.0,
        eos_token_id: int = 151643,
        pad_token_id: int = 151643,
        bos_token_id: int | None = None,
        ignore_token_id: int = -100,
        initializer_range: float = 0.02,
        compute_dtype: str = "float16",
        param_init_type: str = "float16",
        softmax_compute_type: str = "float32",
        layernorm_compute_type: str = "float32",
        rotary_dtype: str = "float32",
        use_flash_attention: bool = False,
        use_past: bool = False,
        is_dynamic: bool = False,
        block_size: int = 16,
        num_blocks: int = 512,
        offset: int | list = 0,
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        repetition_penalty: float = 1.0,
        max_decode_length: int = 1024,
        top_k: int = 0,
        top_p: float = 0.8,
        do_sample: bool = False,
        **kwargs,
    ):
        # The original names of two keys; both spellings occur in YAMLs.
        num_layers = kwargs.pop("num_hidden_layers", num_layers)
        num_heads = kwargs.pop("num_attention_heads", num_heads)
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, bos_token_id=bos_token_id, **kwargs)
        self.batch_size = batch_size
        self.seq_length = seq_length
        self.train_seq_length = train_seq_length
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.kv_channels = kv_channels
        self.intermediate_size = intermediate_size
        self.vocab_size = vocab_size
        self.rms_norm_eps = rms_norm_eps
        self.rotary_emb_base = rotary_emb_base
        self.rotary_pct = rotary_pct
        self.use_dynamic_ntk = use_dynamic_ntk
        self.use_logn_attn = use_logn_attn
        self.ignore_token_id = ignore_token_id
        self.initializer_range = initializer_range
        self.compute_dtype = convert_mstype(compute_dtype)
        self.param_init_type = convert_mstype(param_init_type)
        self.softmax_compute_type = convert_mstype(softmax_compute_type)
        self.layernorm_compute_type = convert_mstype(layernorm_compute_type)
        self.rotary_dtype = convert_mstype(rotary_dtype)
        self.use_flash_attention = use_flash_attention
        self.use_past = use_past
        self.is_dynamic = is_dynamic
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.offset = offset
        self.parallel_config = as_parallel_config(parallel_config)
        self.repetition_penalty = repetition_penalty
        self.max_decode_length = max_decode_length
        self.top_k = top_k
        self.top_p = top_p
        self.do_sample = do_sample
        self.start_stage = 0
        self.stage_num = 0
        if emb_dropout_prob:
            raise ValueError(f"QwenConfig: emb_dropout_prob={emb_dropout_prob}; Qwen-VL is trained without, use 0")
        if rotary_pct != 1.0:
            raise ValueError(f"QwenConfig: rotary_pct={rotary_pct}; Qwen-VL rotates whole heads, use 1.0")
        if num_heads * kv_channels != hidden_size:
            raise ValueError(
                f"QwenConfig: num_heads={num_heads} heads of kv_channels={kv_channels} make "
                f"{num_heads * kv_channels}, which must equal hidden_size={hidden_size}"
            )
        require_split(
            self.parallel_config,
            num_heads=num_heads,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
        )
        if not getattr(self.parallel_config, "vocab_emb_dp", True):
            require_split(self.parallel_config, vocab_size=vocab_size)
