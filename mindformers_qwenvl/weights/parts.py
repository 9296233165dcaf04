"""How fast each weight of the vision tower learns. Plain Python."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["rate_factors"]

VISION_LAYER = re.compile(r"(?:^|\.)transformer\.resblocks\.(\d+)\.")
BELOW_VISION_LAYERS = re.compile(r"(?:^|\.)(?:conv1\.weight|positional_embedding|ln_pre\.(?:gamma|beta))$")


def rate_factors(names: Sequence[str], decay: float) -> tuple[float, ...]:
    """For each weight, by its name, the factor of the learning rate.

    Layer l (from 0) of the L of the vision tower has decay ** (L - l), what lies below them decay ** (L + 1). All else
    has 1: the language model, and what follows the tower's layers, the resampler first. That is BEiT's form of it
    (arXiv 2106.08254, optim_factory.py); Qwen-VL's Table 8 gives the number alone.

    Raises:
        ValueError: decay is not above 0 and at most 1.
    """
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise ValueError(f"optimizer: vision_lr_decay must be above 0 and at most 1, got {decay!r}")
    numbers = [_layer(name) for name in names]
    layers = max((number for number in numbers if number is not None), default=-1) + 1
    return tuple(1.0 if number is None else float(decay) ** (layers - number) for number in numbers)


def _layer(name: str) -> int | None:
    """Layer of the vision tower, -1 for what lies below them, None for everything else."""
    found = VISION_LAYER.search(name)
    if found:
        return int(found[1])
    return -1 if BELOW_VISION_LAYERS.search(name) else None
