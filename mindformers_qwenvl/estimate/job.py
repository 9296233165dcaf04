"""What a YAML asks of the cards: sizes, types, how the work is shared out. The key names are those of yaml/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Job", "Language", "Parallel", "Part", "Recompute", "Vision"]


@dataclass(frozen=True)
class Part:
    """What vision tower and language model are both told; defaults are those of both configurations."""

    use_flash_attention: bool = False
    compute_dtype: str = "float16"
    param_init_type: str = "float16"
    softmax_compute_type: str = "float32"
    layernorm_compute_type: str = "float32"
    offset: Any = 0


@dataclass(frozen=True)
class Vision(Part):
    """Defaults are those of `QwenVLVisionConfig`."""

    hidden_size: int = 1664
    intermediate_size: int = 8192
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    output_dim: int = 4096
    num_queries: int = 256
    gelu_dtype: str = "float32"

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class Language(Part):
    """Defaults are those of `QwenConfig`."""

    batch_size: int = 1
    seq_length: int = 2048
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    kv_channels: int = 128
    intermediate_size: int = 11008
    vocab_size: int = 151936
    rotary_dtype: str = "float32"
    use_past: bool = False
    block_size: int = 16
    num_blocks: int = 512


@dataclass(frozen=True)
class Parallel:
    """All ones on a single card, and where each card has everything (`parallel_mode: 0`)."""

    data_parallel: int = 1
    model_parallel: int = 1
    pipeline_stage: int = 1
    micro_batch_num: int = 1
    vocab_emb_dp: bool = True
    gradient_aggregation_group: int = 4
    enable_parallel_optimizer: bool = False
    gradient_accumulation_shard: bool = False
    parallel_optimizer_threshold: int = 64  # KB
    full_batch: bool = False
    sharded: bool = False  # whether MindSpore compiles the graph for many cards

    @property
    def cards(self) -> int:
        return self.data_parallel * self.model_parallel * self.pipeline_stage


@dataclass(frozen=True)
class Recompute:
    """`layers`: True, False, or how many layers of each part on each stage."""

    layers: Any = False
    select: bool = False
    slice_activation: bool = False
    communication: bool = False  # gathered weights are gathered again in the backward pass


@dataclass(frozen=True)
class Job:
    """A training, or with `predict` a prediction. rows, images: of one card and one micro batch."""

    name: str
    predict: bool
    vision: Vision
    llm: Language
    freeze_vision: bool
    freeze_resampler: bool
    freeze_llm: bool
    parallel: Parallel
    recompute: Recompute
    rows: int
    tokens: int
    images: int
    accumulation: int  # parts of a batch that the graph adds up before the update (runner_config)
    accumulation_steps: int  # parts of a batch in QwenVLTrainOneStepCell
    swapped: bool  # optimizer states live in the host's memory
    fused: bool  # the operators of Ascend
    updated_in_place: bool  # QwenVLAdamW on a CPU, with float32 weights
    layers_per_stage: tuple[int, ...] | None
    device_memory: int | None  # context.max_device_memory, bytes
