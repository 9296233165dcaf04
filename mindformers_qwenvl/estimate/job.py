"""What a YAML asks of the cards: sizes, types, how the work is divided. Fields have the names of the YAML's keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.adapters.settings import AdapterSettings
from mindformers_qwenvl.config.sizes import LanguageSettings, VisionSettings

__all__ = ["Job", "Parallel", "Recompute"]


@dataclass(frozen=True)
class Parallel:
    """How the cards share the work. On a single card, and if each card holds everything (`parallel_mode: 0`): all 1."""

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
    """`layers`: True, False, or how many layers of each part on each pipeline stage."""

    layers: Any = False
    select: bool = False
    slice_activation: bool = False
    communication: bool = False  # gathered weights are gathered again in the backward pass


@dataclass(frozen=True)
class Job:
    """A training or, with `predict`, a prediction. `rows` and `images` are those of one card and one micro batch."""

    name: str
    predict: bool
    vision: VisionSettings
    llm: LanguageSettings
    freeze_vision: bool
    freeze_resampler: bool
    freeze_llm: bool
    parallel: Parallel
    recompute: Recompute
    rows: int
    tokens: int
    images: int
    accumulation: int  # parts of a batch that the graph accumulates before the update (runner_config)
    accumulation_steps: int  # parts of a batch in QwenVLTrainOneStepCell
    swapped: bool  # optimizer states are in the host's memory
    fused: bool  # the operators of Ascend
    updated_in_place: bool  # QwenVLAdamW on a CPU, with float32 weights
    layers_per_stage: tuple[int, ...] | None
    device_memory: int | None  # context.max_device_memory, bytes
    adapter: AdapterSettings | None = None  # model_config.pet_config: then only the adapter is trained
