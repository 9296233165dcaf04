"""Which part of the network a parameter belongs to, by its name; and what follows from that. Plain Python.

Names may have a prefix, such as that of a training wrapper, and may be those of one part alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mindformers_qwenvl.checks import number

__all__ = [
    "LANGUAGE",
    "PARTS",
    "RESAMPLER",
    "VISION",
    "Place",
    "is_norm",
    "is_rms_norm",
    "part_of",
    "place_of",
    "rate_factors",
    "trained_parts",
]

VISION, RESAMPLER, LANGUAGE = "vision", "resampler", "llm"
PARTS = (VISION, RESAMPLER, LANGUAGE)  # each has a switch freeze_PART


class Place(NamedTuple):
    """Where a parameter is.

    Attributes:
        part: VISION, RESAMPLER or LANGUAGE.
        layer: number of the layer, from 0; None outside the layers.
        after_layers: it comes after the layers: the tower's last norm and projection, the resampler, the head.
    """

    part: str
    layer: int | None = None
    after_layers: bool = False


_LAYERS = ((VISION, r"transformer\.resblocks\.(\d+)\."), (LANGUAGE, r"transformer\.layers\.(\d+)\."))
_LAYERS = tuple((part, re.compile(rf"(?:^|\.){pattern}")) for part, pattern in _LAYERS)
_OTHERS = (
    (Place(RESAMPLER, after_layers=True), r"attn_pool\."),
    (Place(VISION), r"(?:conv1\.weight|positional_embedding|ln_pre\.(?:gamma|beta))$"),
    (Place(VISION, after_layers=True), r"(?:ln_post\.(?:gamma|beta)|proj)$"),
    (Place(LANGUAGE), r"wte\.embedding_weight$"),
    (Place(LANGUAGE, after_layers=True), r"(?:ln_f|lm_head)\.weight$"),
)
_OTHERS = tuple((place, re.compile(rf"(?:^|\.){pattern}")) for place, pattern in _OTHERS)

_RMS_NORM = re.compile(r"(?:^|\.)(?:attention_norm|ffn_norm|ln_f)\.weight$")
_LAYER_NORM = re.compile(r"\.(?:gamma|beta)$")


def place_of(name: str) -> Place | None:
    """Where the parameter `name` is; None if it is not one of Qwen-VL."""
    for part, pattern in _LAYERS:
        if match := pattern.search(name):
            return Place(part, int(match[1]))
    return next((place for place, pattern in _OTHERS if pattern.search(name)), None)


def part_of(name: str) -> str:
    """VISION, RESAMPLER or LANGUAGE.

    Raises:
        ValueError: it is not a parameter of Qwen-VL.
    """
    place = place_of(name)
    if place is None:
        raise ValueError(f"{name!r} is not a parameter of Qwen-VL")
    return place.part


def trained_parts(settings: Any) -> set[str]:
    """The parts whose `freeze_PART`, an attribute of `settings`, is off. Adapters (`pet_config`) do not count."""
    return {part for part in PARTS if not getattr(settings, f"freeze_{part}")}


def is_rms_norm(name: str) -> bool:
    """Whether `name` is the weight of an RMSNorm: the language model has no other norms."""
    return _RMS_NORM.search(name) is not None


def is_norm(name: str) -> bool:
    """Whether `name` belongs to an RMSNorm or a LayerNorm, which are kept in `layernorm_compute_type`."""
    return is_rms_norm(name) or _LAYER_NORM.search(name) is not None


def rate_factors(names: Sequence[str], decay: float) -> tuple[float, ...]:
    """The factor of the learning rate of each parameter in `names`.

    Layer l (from 0) of the L layers of the vision tower has decay ** (L - l), what comes before them decay ** (L + 1).
    All else has 1: the language model, and what follows the tower's layers, such as the resampler. This is BEiT's form
    of layer-wise decay (arXiv 2106.08254, optim_factory.py); Qwen-VL's Table 8 gives only the number.

    Raises:
        ValueError: decay is not above 0 and at most 1.
    """
    number("optimizer: vision_lr_decay", decay, above=0, most=1)
    depths = [_vision_depth(name) for name in names]
    layers = max((depth for depth in depths if depth is not None), default=-1) + 1
    return tuple(1.0 if depth is None else float(decay) ** (layers - depth) for depth in depths)


def _vision_depth(name: str) -> int | None:
    """Layer of the vision tower, -1 for what comes before the layers, None for everything else."""
    place = place_of(name)
    if place is None or place.part != VISION or place.after_layers:
        return None
    return -1 if place.layer is None else place.layer
