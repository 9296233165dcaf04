"""Classes that old YAMLs name and MindFormers dropped in 1.6: their replacements, under their names."""

from __future__ import annotations

from typing import Any

from mindformers.core.optim.adamw import AdamW
from mindformers.tools.logger import logger
from mindspore.train.callback import Callback

__all__ = ["FP32StateAdamWeightDecay", "ObsMonitor"]


class FP32StateAdamWeightDecay(AdamW):
    """MindFormers' AdamW, whose moments are float32 too, with the arguments of old YAMLs.

    Unlike the old class, AdamW corrects the bias of the moments in the first steps.
    """

    def __init__(self, params, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0, **kwargs):
        _gone("optimizer", "FP32StateAdamWeightDecay", f"AdamW with betas: [{beta1}, {beta2}] takes its place")
        super().__init__(params, learning_rate, (beta1, beta2), eps, weight_decay, **kwargs)


class ObsMonitor(Callback):
    """Does nothing. MindFormers no longer uploads to object storage, but old YAMLs still name this callback."""

    def __init__(self, **kwargs: Any):
        super().__init__()
        _gone("callbacks", "ObsMonitor", "it does nothing and can be left out")


def _gone(section: str, name: str, instead: str) -> None:
    logger.warning("%s: type: %s was removed from MindFormers in 1.6; %s.", section, name, instead)
