"""Sizes of Qwen-VL: published defaults, what must divide what, and layers on pipeline stages. Plain Python.

This is their only source: the configurations, the estimate and the weights take them from here. A check takes any
object with the attributes of `VisionSettings` or `LanguageSettings`, such as a configuration of MindFormers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.checks import is_whole, whole

__all__ = [
    "BOTH_PARTS",
    "LANGUAGE_MODEL",
    "RESAMPLER_HEAD_DIM",
    "SPELLINGS",
    "VIT_MLP_RATIO",
    "VIT_POSITIONS",
    "LanguageSettings",
    "PartSettings",
    "VisionSettings",
    "check_language",
    "check_layers_per_stage",
    "check_order",
    "check_parts",
    "check_split",
    "check_vision",
    "language_split",
    "stages_by_offset",
    "vision_split",
    "vit_mlp_width",
]

# Sizes that the original's config.json does not give; they are in the original's code.
RESAMPLER_HEAD_DIM = 128  # visual.py divides output_dim into heads of 128
VIT_MLP_RATIO = 4.9231  # of the published vision tower: its MLP is int(hidden_size * 4.9231) wide
VIT_POSITIONS = 256  # rows of the learned position table, whatever the image size: it was trained at 224 pixels

# Keys of the outer configuration that are passed on: to both parts, and to the language model.
BOTH_PARTS = ("compute_dtype", "softmax_compute_type", "param_init_type")
LANGUAGE_MODEL = (
    *("batch_size", "seq_length", "use_past", "is_dynamic", "block_size", "num_blocks"),
    *("eos_token_id", "repetition_penalty", "max_decode_length", "top_k", "top_p", "do_sample"),
)
# The original's names of two keys of the language model, and ours. YAMLs have both.
SPELLINGS = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}


def vit_mlp_width(hidden_size: int) -> int:
    """Width of the vision tower's MLP, as the original rounds it."""
    return int(hidden_size * VIT_MLP_RATIO)


@dataclass(frozen=True)
class PartSettings:
    """What the vision tower and the language model have in common."""

    use_flash_attention: bool = False
    compute_dtype: str = "float16"
    param_init_type: str = "float16"
    softmax_compute_type: str = "float32"
    layernorm_compute_type: str = "float32"
    offset: Any = 0  # how many layers more (or fewer) than the mean: one number, or one for each stage


@dataclass(frozen=True)
class VisionSettings(PartSettings):
    """The vision tower and its resampler; the defaults are the published sizes."""

    hidden_size: int = 1664  # width of the ViT
    intermediate_size: int = vit_mlp_width(hidden_size)  # width of its MLP
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    image_size: int = 448  # pixels a side, of square images
    patch_size: int = 14  # pixels a side
    output_dim: int = 4096  # of the resampler: the hidden size of the language model
    num_queries: int = 256  # tokens for each image
    gelu_dtype: str = "float32"

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LanguageSettings(PartSettings):
    """The language model, Qwen-7B; the defaults are the published sizes."""

    batch_size: int = 1
    seq_length: int = 2048  # longest sequence the network is built for
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    kv_channels: int = 128  # size of a head
    intermediate_size: int = 11008  # width of one of the MLP's two branches: half of the original config.json's
    vocab_size: int = 151936
    rotary_dtype: str = "float32"
    use_past: bool = False
    block_size: int = 16
    num_blocks: int = 512


def check_vision(vision: Any) -> None:
    """Check that the sizes of a vision tower fit together.

    Raises:
        ValueError: they do not; the message names the sizes.
    """
    _check_whole(
        vision,
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("image_size", "patch_size", "output_dim", "num_queries"),
    )
    _check_divides("hidden_size", vision.hidden_size, "num_attention_heads", vision.num_attention_heads)
    _check_divides("image_size", vision.image_size, "patch_size", vision.patch_size)
    _check_divides("output_dim", vision.output_dim, "the head size of the resampler", RESAMPLER_HEAD_DIM)
    if math.isqrt(vision.num_queries) ** 2 != vision.num_queries:
        raise ValueError(
            f"num_queries={vision.num_queries} must be a square number: the queries are laid out on a square grid"
        )


def check_language(llm: Any) -> None:
    """Check that the sizes of a language model fit together.

    Raises:
        ValueError: they do not; the message names the sizes.
    """
    _check_whole(llm, "hidden_size", "num_layers", "num_heads", "kv_channels", "intermediate_size", "vocab_size")
    if llm.num_heads * llm.kv_channels != llm.hidden_size:
        raise ValueError(
            f"num_heads={llm.num_heads} times kv_channels={llm.kv_channels} is {llm.num_heads * llm.kv_channels}, "
            f"which must equal hidden_size={llm.hidden_size}"
        )


def check_parts(vision: Any, llm: Any) -> None:
    """Check that the resampler's vectors are as wide as the language model's.

    Raises:
        ValueError: they are not.
    """
    if vision.output_dim != llm.hidden_size:
        raise ValueError(
            f"the resampler's output_dim={vision.output_dim} (proj_output_dim) must equal the language model's "
            f"hidden_size={llm.hidden_size}; leave proj_output_dim out"
        )


def vision_split(vision: Any) -> dict[str, int]:
    """Sizes of the vision tower that are split over the cards of model_parallel, by name."""
    return {
        "num_attention_heads": vision.num_attention_heads,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "output_dim": vision.output_dim,
        "resampler_heads": vision.output_dim // RESAMPLER_HEAD_DIM,
    }


def language_split(llm: Any, vocab_emb_dp: bool) -> dict[str, int]:
    """Sizes of the language model that are split over the cards of model_parallel, by name.

    Args:
        vocab_emb_dp: every card holds the whole vocabulary.
    """
    shared = {"num_heads": llm.num_heads, "hidden_size": llm.hidden_size, "intermediate_size": llm.intermediate_size}
    return shared if vocab_emb_dp else shared | {"vocab_size": llm.vocab_size}


def check_split(sizes: Mapping[str, int], model_parallel: int) -> None:
    """Check that each of `sizes` can be split evenly over the cards of model_parallel.

    Raises:
        ValueError: some cannot; the message names all of them.
    """
    wrong = [f"{name}={size}" for name, size in sizes.items() if size % model_parallel]
    if wrong:
        raise ValueError(
            f"parallel_config.model_parallel={model_parallel} cards cannot share {', '.join(wrong)} evenly; choose a "
            f"model_parallel that divides {'it' if len(wrong) == 1 else 'each of them'}"
        )


def _check_whole(settings: Any, *names: str) -> None:
    for name in names:
        whole(name, getattr(settings, name))


def _check_divides(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name}={value} must be divisible by {by} ({by_name})")


# ---- Layers on pipeline stages, as MindFormers' LayerSetting places them.


def check_layers_per_stage(given: Any, stages: int, layers: int) -> None:
    """Check that each stage has at least one layer, and that the stages add up to `layers`, those of both parts.

    Raises:
        ValueError: `given` is not such a list.
    """
    counts = given if isinstance(given, list | tuple) and all(is_whole(count, 1) for count in given) else ()
    if len(counts) == stages and sum(counts) == layers:
        return
    raise ValueError(
        f"layers_per_stage={given!r} must be a list of whole numbers of 1 or more, one for each pipeline stage "
        f"(pipeline_stage={stages}), that add up to {layers} layers (vision tower and language model)"
    )


def stages_by_offset(layers: int, offset: int | list[int], stages: int) -> list[int]:
    """The stage of each layer of one part: `layers // stages` on each stage, plus `offset` (one for all, or a list).

    Raises:
        ValueError: they do not add up to `layers`, or a stage would have a negative number of layers.
    """
    offsets = offset if isinstance(offset, list) else [offset] * stages
    mean = layers // stages
    counts = [mean + more for more in offsets if isinstance(more, int)]
    if len(counts) != stages or min(counts) < 0 or sum(counts) != layers:
        raise ValueError(
            f"{layers} layers on {stages} pipeline stages, {mean} on each plus offset={offset!r}, do not add up; set "
            "model.model_config.layers_per_stage, or an offset for each stage"
        )
    return [stage for stage, count in enumerate(counts) for _ in range(count)]


def check_order(vision: list[int], llm: list[int], stages: int) -> None:
    """Check that the language model begins where the vision tower ends, or later: MindSpore's pipeline runs one way.

    Args:
        vision, llm: the stage of each of their layers.

    Raises:
        ValueError: it begins earlier.
    """
    if vision[-1] <= llm[0]:
        return
    mean, more = divmod(len(vision) + len(llm), stages)
    even = [mean + (stage >= stages - more) for stage in range(stages)]
    raise ValueError(
        f"pipeline_stage={stages}: the vision tower would end on stage {vision[-1]}, but the language model, which "
        f"takes its output, would begin on stage {llm[0]}. Set model.model_config.layers_per_stage, the number of "
        f"layers (vision tower and language model together) on each stage, such as {even}"
    )
