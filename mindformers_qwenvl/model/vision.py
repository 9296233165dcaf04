"""The vision tower: a ViT over square patches, then the resampler (original file: visual.py; paper section 2.1)."""

from __future__ import annotations

import math
from typing import ClassVar

from mindformers.models.modeling_utils import PreTrainedModel
from mindspore import Parameter, nn
from mindspore import ops as P
from mindspore.common.initializer import HeUniform, Normal, initializer

from mindformers_qwenvl.adapters.network import add_adapters
from mindformers_qwenvl.config import QwenVLVisionConfig
from mindformers_qwenvl.config.sizes import VIT_POSITIONS
from mindformers_qwenvl.model.layers import Norm, ResizedTable, column_linear, row_linear, stack
from mindformers_qwenvl.model.ops import Attention, Gelu
from mindformers_qwenvl.model.resampler import Resampler

__all__ = ["QwenVLVisionModel"]


class PatchEmbedding(nn.Cell):
    """Images [B, 3, H, W] to patches [B, P, width], row by row.

    The original's convolution has stride = kernel, so it is one matrix product over flattened patches.
    """

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        self.side, self.patch = config.image_size // config.patch_size, config.patch_size
        self.width = config.hidden_size
        self.compute_dtype = config.compute_dtype
        self.weight = Parameter(
            # torch's default for Conv2d, which the original's initialisation does not change.
            initializer(HeUniform(math.sqrt(5)), (self.width, 3, self.patch, self.patch), config.param_init_type),
            name="weight",
        )
        self.cast = P.Cast()
        self.reshape = P.Reshape()
        self.transpose = P.Transpose().shard(((dp, 1, 1, 1, 1, 1),))
        # The weight is transposed, not only reshaped: a reshape does not say how the cards share its input.
        self.turn = P.Transpose().shard(((mp, 1, 1, 1),))
        self.matmul = P.MatMul().shard(((dp, 1), (1, mp)))

    def construct(self, images):
        batch = images.shape[0]
        x = self.reshape(images, (batch, 3, self.side, self.patch, self.side, self.patch))
        x = self.transpose(self.cast(x, self.compute_dtype), (0, 2, 4, 1, 3, 5))
        x = self.reshape(x, (-1, 3 * self.patch**2))
        kernel = self.turn(self.cast(self.weight, self.compute_dtype), (1, 2, 3, 0))
        kernel = self.reshape(kernel, (-1, self.width))
        return self.reshape(self.matmul(x, kernel), (batch, self.side**2, self.width))


class VisionAttention(nn.Cell):
    """Self-attention over patches [B, P, width]; the rows of in_proj are in the order (head, q k v, head size)."""

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        self.heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.in_proj = column_linear(config.hidden_size, 3 * config.hidden_size, config)
        self.out_proj = row_linear(config.hidden_size, config.hidden_size, config)
        self.attention = Attention(
            self.heads,
            self.head_dim,
            use_flash_attention=config.use_flash_attention,
            softmax_type=config.softmax_compute_type,
            parallel_config=config.parallel_config,
        )
        self.reshape = P.Reshape()
        self.transpose = P.Transpose().shard(((dp, 1, mp, 1),))
        self.split = P.Split(axis=-1, output_num=3).shard(((dp, mp, 1, 1),))

    def construct(self, x):
        batch, patches, _ = x.shape
        qkv = self.reshape(self.in_proj(x), (batch, patches, self.heads, 3 * self.head_dim))
        q, k, v = self.split(self.transpose(qkv, (0, 2, 1, 3)))  # [B, heads, P, head_dim] each
        return self.out_proj(self.attention(q, k, v))


class VisionMLP(nn.Cell):
    """c_proj(gelu(c_fc(x)))"""

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        self.c_fc = column_linear(config.hidden_size, config.intermediate_size, config)
        self.c_proj = row_linear(config.intermediate_size, config.hidden_size, config)
        self.gelu = Gelu(config.gelu_dtype, (dp, 1, mp))

    def construct(self, x):
        return self.c_proj(self.gelu(self.c_fc(x)))


class VisionBlock(nn.Cell):
    """x + attn(ln_1(x)), then x + mlp(ln_2(x)); x: [B, P, width]."""

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        dp = config.parallel_config.data_parallel
        self.ln_1 = Norm(config.hidden_size, config, (dp, 1, 1))
        self.attn = VisionAttention(config)
        self.ln_2 = Norm(config.hidden_size, config, (dp, 1, 1))
        self.mlp = VisionMLP(config)
        self.add = P.Add().shard(((dp, 1, 1), (dp, 1, 1)))

    def construct(self, x):
        x = self.add(x, self.attn(self.ln_1(x)))
        return self.add(x, self.mlp(self.ln_2(x)))


class VisionTransformer(nn.Cell):
    """The blocks, one after another; x: [B, P, width]."""

    def __init__(self, config: QwenVLVisionConfig):
        super().__init__()
        self.resblocks = stack(VisionBlock, config.num_hidden_layers, config, "vision_encoder.transformer.resblocks")

    def construct(self, x):
        for block in self.resblocks:
            x = block(x)
        return x


class QwenVLVisionModel(PreTrainedModel):
    """Images to vectors of the language model's width.

    Inputs:
        images: float [B, 3, H, W], normalised pixels, H = W = config.image_size.

    Outputs:
        [B, num_queries, output_dim] in config.compute_dtype.
    """

    config_class = QwenVLVisionConfig
    base_model_prefix = "vision_encoder"
    _support_list: ClassVar[list[str]] = []

    def __init__(self, config: QwenVLVisionConfig, **kwargs):
        super().__init__(config, **kwargs)
        dp, mp = config.parallel_config.data_parallel, config.parallel_config.model_parallel
        width, output_dim = config.hidden_size, config.output_dim
        self.conv1 = PatchEmbedding(config)
        self.positional_embedding = Parameter(
            initializer(Normal(width**-0.5), (VIT_POSITIONS, width), config.param_init_type),
            name="positional_embedding",
            parallel_optimizer=False,
        )
        self.resized = ResizedTable(VIT_POSITIONS, config.num_patches)
        self.ln_pre = Norm(width, config, (dp, 1, 1))
        self.transformer = VisionTransformer(config)
        self.attn_pool = Resampler(config)
        add_adapters(self.attn_pool, "vision_encoder.attn_pool", config)
        self.ln_post = Norm(output_dim, config, (dp, 1, 1))
        self.proj = Parameter(
            initializer(Normal(output_dim**-0.5), (output_dim, output_dim), config.param_init_type), name="proj"
        )
        self.add = P.Add().shard(((dp, 1, 1), (1, 1)))
        self.matmul = P.MatMul().shard(((dp, 1), (1, mp)))
        self.cast = P.Cast()
        self.reshape = P.Reshape()

    def construct(self, images):
        x = self.conv1(images)  # [B, P, width]
        x = self.add(x, self.cast(self.resized(self.positional_embedding), x.dtype))
        x = self.transformer(self.ln_pre(x))
        x = self.ln_post(self.attn_pool(x))  # [B, Q, output_dim]
        flat = self.reshape(x, (-1, x.shape[-1]))
        return self.reshape(self.matmul(flat, self.cast(self.proj, x.dtype)), x.shape)
