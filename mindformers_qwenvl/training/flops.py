"""Floating-point operations of a training step, from the sizes of the network: for the MFU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.adapters.settings import from_pet_config
from mindformers_qwenvl.adapters.targets import touched_parts
from mindformers_qwenvl.weights.parts import LANGUAGE, RESAMPLER, VISION, trained_parts

__all__ = ["Gradients", "gradients_of", "step_flops"]

# The gradient with respect to each factor of a product takes as many operations as the product.
FORWARD, INPUTS, WEIGHTS = 1, 1, 1


@dataclass(frozen=True)
class Gradients:
    """The parts that gradients go through, and those whose own weights have gradients."""

    through: frozenset[str]
    of_weights: frozenset[str]


def gradients_of(config: Any) -> Gradients:
    """Of a training with this `QwenVLConfig`. With an adapter (`pet_config`) the network's own weights are frozen."""
    if not config.pet_config:
        return Gradients(*[frozenset(trained_parts(config))] * 2)
    adapter = from_pet_config(config.pet_config)
    return Gradients(frozenset(touched_parts(adapter, config.vision, config.llm)), frozenset())


def step_flops(config: Any, gradients: Gradients, rows: int, length: int, images: int) -> float:
    """Operations of one training step; a multiplication and an addition are two (PaLM paper, appendix B).

    Matrix products are counted, forward and backward, over all positions (attention is not halved for its mask). Frozen
    parts need no gradients of their weights, and no gradients at all if nothing below them is trained. Activations that
    are computed twice (recompute) count once: this is for the MFU, not for the hardware's utilisation. Of an adapter,
    the products of its low-rank factors, and gradients of whole modules beside it, are not counted.

    Args:
        config: a `QwenVLConfig`.
        gradients: those of `gradients_of(config)`.
        rows: samples of the batch.
        length: positions of a sample that the network sees: those of input_ids except the last.
        images: pictures of the batch, all samples together.
    """
    llm, vision = config.llm, config.vision
    through, weights = gradients.through, gradients.of_weights
    llm_times = FORWARD + bool(through) * INPUTS + (LANGUAGE in weights) * WEIGHTS
    resampler_times = FORWARD + bool(through & {VISION, RESAMPLER}) * INPUTS + (RESAMPLER in weights) * WEIGHTS
    vision_times = FORWARD + (VISION in through) * INPUTS + (VISION in weights) * WEIGHTS
    return float(
        rows * length * llm_times * _per_token(llm, length)
        + images * (resampler_times * _resampler(vision) + vision_times * _tower(vision))
    )


def _per_token(llm: Any, length: int) -> int:
    width = llm.hidden_size
    layer = 4 * width**2 + 3 * width * llm.intermediate_size
    return 2 * (llm.num_layers * layer + width * llm.vocab_size) + 4 * llm.num_layers * length * width


def _tower(vision: Any) -> int:
    patches, width = vision.num_patches, vision.hidden_size
    layer = 4 * width**2 + 2 * width * vision.intermediate_size
    weights = 3 * vision.patch_size**2 * width + vision.num_hidden_layers * layer
    return 2 * patches * weights + 4 * vision.num_hidden_layers * patches**2 * width


def _resampler(vision: Any) -> int:
    patches, queries, width = vision.num_patches, vision.num_queries, vision.output_dim
    narrower = 0 if vision.hidden_size == width else vision.hidden_size * width  # kv_proj
    weights = patches * (narrower + 2 * width**2) + queries * 3 * width**2  # key, value; query, output, proj
    return 2 * weights + 4 * patches * queries * width
