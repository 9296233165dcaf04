"""Configuration of the vision tower and its resampler."""

from __future__ import annotations

from mindformers.core.parallel_config import default_parallel_config
from mindformers.models.configuration_utils import PretrainedConfig
from mindformers.models.utils import convert_mstype
from mindformers.modules.transformer import TransformerOpParallelConfig

from mindformers_qwenvl.config.checks import as_parallel_config, require_divisible, require_split, require_square
from mindformers_qwenvl.sizes import RESAMPLER_HEAD_DIM, VIT_MLP_RATIO

__all__ = ["QwenVLVisionConfig"]


class QwenVLVisionConfig(PretrainedConfig):
    """The vision tower: ViT-bigG with a cross-attention resampler on top (Qwen-VL paper, section 2.1)."""

    model_type = "qwenvl_vision"

    def __init__(
        self,
        hidden_size: int = 1664,  # width of the ViT
        intermediate_size: int | None = None,  # width of its MLP; None: int(hidden_size * 4.9231), as the original
        num_hidden_layers: int = 48,
        num_attention_heads: int = 16,
        image_size: int = 448,  # pixels a side, of square images
        patch_size: int = 14,  # pixels a side
        output_dim: int = 4096,  # of the resampler: the hidden size of the language model
        num_queries: int = 256,  # tokens one image becomes
        layer_norm_eps: float = 1e-6,
        dropout: float = 0.0,  # the original has none
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        use_flash_attention: bool = False,
        compute_dtype: str = "float16",
        param_init_type: str = "float16",
        softmax_compute_type: str = "float32",
        layernorm_compute_type: str = "float32",
        gelu_dtype: str = "float32",
        parallel_config: TransformerOpParallelConfig = default_parallel_config,
        offset: int | list = 0,  # layers more (or fewer) than the mean on each pipeline stage
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = int(hidden_size * VIT_MLP_RATIO) if intermediate_size is None else intermediate_size
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
                f"QwenVLVisionConfig: dropout={dropout}, attention_dropout={attention_dropout}; Qwen-VL has no dropout "
                "in its vision tower, both must be 0"
            )
        require_divisible("hidden_size", hidden_size, "num_attention_heads", num_attention_heads)
        require_divisible("image_size", image_size, "patch_size", patch_size)
        require_divisible("output_dim", output_dim, "the head size of the resampler", RESAMPLER_HEAD_DIM)
        require_square("num_queries", num_queries)
        require_split(
            self.parallel_config,
            num_attention_heads=num_attention_heads,
            hidden_size=hidden_size,
            intermediate_size=self.intermediate_size,
            output_dim=output_dim,
            resampler_heads=output_dim // RESAMPLER_HEAD_DIM,
        )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2
