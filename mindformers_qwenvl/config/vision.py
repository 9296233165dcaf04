"""Configuration of the vision tower and its resampler."""

from __future__ import annotations

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.models.utils import convert_mstype
from mindformers.modules.transformer import TransformerOpParallelConfig

from mindformers_qwenvl.checks import arguments_of
from mindformers_qwenvl.config.keys import refuse_unknown_keys
from mindformers_qwenvl.config.parallel import as_parallel_config
from mindformers_qwenvl.config.sizes import VisionSettings as Default
from mindformers_qwenvl.config.sizes import check_split, check_vision, vision_split, vit_mlp_width

__all__ = ["QwenVLVisionConfig"]


class QwenVLVisionConfig(PretrainedConfig):
    """The vision tower: ViT-bigG with a cross-attention resampler on top (Qwen-VL paper, section 2.1).

    Sizes and their defaults: see sizes.py.

    Raises:
        ValueError: sizes do not fit together, or cannot be split evenly over the cards of model_parallel.
    """

    model_type = "qwenvl_vision"

    def __init__(
        self,
        hidden_size: int = Default.hidden_size,
        intermediate_size: int | None = None,  # None: int(hidden_size * 4.9231), as in the original
        num_hidden_layers: int = Default.num_hidden_layers,
        num_attention_heads: int = Default.num_attention_heads,
        image_size: int = Default.image_size,
        patch_size: int = Default.patch_size,
        output_dim: int = Default.output_dim,
        num_queries: int = Default.num_queries,
        layer_norm_eps: float = 1e-6,
        dropout: float = 0.0,  # the original has none
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_flash_attention: bool = Default.use_flash_attention,
        compute_dtype: str = Default.compute_dtype,
        param_init_type: str = Default.param_init_type,
        softmax_compute_type: str = Default.softmax_compute_type,
        layernorm_compute_type: str = Default.layernorm_compute_type,
        gelu_dtype: str = Default.gelu_dtype,
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        offset: int | list = Default.offset,
        **kwargs,
    ):
        refuse_unknown_keys("QwenVLVisionConfig", kwargs, _ARGUMENTS)
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = vit_mlp_width(hidden_size) if intermediate_size is None else intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.output_dim = output_dim
        self.num_queries = num_queries
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.use_flash_attention = use_flash_attention
        self.compute_dtype = convert_mstype(compute_dtype)
        self.param_init_type = convert_mstype(param_init_type)
        self.softmax_compute_type = convert_mstype(softmax_compute_type)
        self.layernorm_compute_type = convert_mstype(layernorm_compute_type)
        self.gelu_dtype = convert_mstype(gelu_dtype)
        self.parallel_config = as_parallel_config(parallel_config)
        self.offset = offset
        self.start_stage = 0
        self.stage_num = 0
        if dropout or attention_dropout:
            raise ValueError(
                f"QwenVLVisionConfig: dropout={dropout}, attention_dropout={attention_dropout}, expected 0: Qwen-VL's "
                "vision tower has no dropout"
            )
        try:
            check_vision(self)
            check_split(vision_split(self), getattr(self.parallel_config, "model_parallel", 1))
        except ValueError as error:
            raise ValueError(f"QwenVLVisionConfig: {error}") from None

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


_ARGUMENTS = arguments_of(QwenVLVisionConfig)
