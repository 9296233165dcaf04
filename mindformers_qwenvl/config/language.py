"""Configuration of the language model."""

from __future__ import annotations

from typing import Any

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.models.utils import convert_mstype
from mindformers.modules.transformer import TransformerOpParallelConfig

from mindformers_qwenvl.checks import arguments_of
from mindformers_qwenvl.config.folder import followed_settings
from mindformers_qwenvl.config.keys import refuse_unknown_keys
from mindformers_qwenvl.config.parallel import as_parallel_config
from mindformers_qwenvl.config.sizes import SPELLINGS, check_language, check_split, language_split
from mindformers_qwenvl.config.sizes import LanguageSettings as Default

__all__ = ["QwenConfig"]


class QwenConfig(PretrainedConfig):
    """The language model, Qwen-7B (original file: configuration_qwen.py). Sizes and their defaults: see sizes.py.

    Raises:
        ValueError: sizes do not fit together, or cannot be split evenly over the cards of model_parallel.
    """

    model_type = "qwen"

    def __init__(
        self,
        batch_size: int = Default.batch_size,
        seq_length: int = Default.seq_length,
        train_seq_length: int = 2048,  # length used in training; dynamic NTK and logn begin beyond it
        hidden_size: int = Default.hidden_size,
        num_layers: int = Default.num_layers,
        num_heads: int = Default.num_heads,
        kv_channels: int = Default.kv_channels,
        intermediate_size: int = Default.intermediate_size,
        vocab_size: int = Default.vocab_size,
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
        compute_dtype: str = Default.compute_dtype,
        param_init_type: str = Default.param_init_type,
        softmax_compute_type: str = Default.softmax_compute_type,
        layernorm_compute_type: str = Default.layernorm_compute_type,
        rotary_dtype: str = Default.rotary_dtype,
        use_flash_attention: bool = Default.use_flash_attention,
        use_past: bool = Default.use_past,
        is_dynamic: bool = False,
        block_size: int = Default.block_size,
        num_blocks: int = Default.num_blocks,
        offset: int | list = Default.offset,
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        repetition_penalty: float = 1.0,
        max_decode_length: int = 1024,
        top_k: int = 0,
        top_p: float = 0.8,
        do_sample: bool = False,
        **kwargs,
    ):
        refuse_unknown_keys("QwenConfig", kwargs.keys() - SPELLINGS.keys(), _ARGUMENTS)
        renamed = {SPELLINGS[name]: kwargs.pop(name) for name in SPELLINGS if name in kwargs}
        super().__init__(eos_token_id=eos_token_id, pad_token_id=pad_token_id, bos_token_id=bos_token_id, **kwargs)
        self.batch_size = batch_size
        self.seq_length = seq_length
        self.train_seq_length = train_seq_length
        self.hidden_size = hidden_size
        self.num_layers = renamed.get("num_layers", num_layers)
        self.num_heads = renamed.get("num_heads", num_heads)
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
            raise ValueError(f"QwenConfig: emb_dropout_prob={emb_dropout_prob}, expected 0: Qwen-VL has no dropout")
        if rotary_pct != 1.0:
            raise ValueError(f"QwenConfig: rotary_pct={rotary_pct}, expected 1.0: Qwen-VL rotates whole heads")
        parallel = self.parallel_config
        try:
            check_language(self)
            check_split(
                language_split(self, getattr(parallel, "vocab_emb_dp", True)), getattr(parallel, "model_parallel", 1)
            )
        except ValueError as error:
            raise ValueError(f"QwenConfig: {error}") from None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the host's, but without the keys of a config.json that name other files."""
        return super().from_dict(followed_settings("config.json", config_dict), **kwargs)


_ARGUMENTS = (*arguments_of(QwenConfig), *SPELLINGS)
