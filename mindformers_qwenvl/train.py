"""The train step, `runner_wrapper: {type: QwenVLTrainOneStepCell}`, and names of old YAMLs that MindFormers dropped."""

from __future__ import annotations

from typing import Any

from mindformers.core.optim.adamw import AdamW
from mindformers.tools.logger import logger
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import dtype as mstype
from mindspore import nn, ops
from mindspore.ops import composite as C
from mindspore.train.callback import Callback

from mindformers_qwenvl.model.ops import on_ascend

__all__ = ["FP32StateAdamWeightDecay", "ObsMonitor", "QwenVLTrainOneStepCell"]

_count_not_finite = C.MultitypeFuncGraph("count_not_finite")


@_count_not_finite.register("Tensor")
def _count_not_finite_tensor(gradient):
    return ops.cast(ops.logical_not(ops.isfinite(gradient)), mstype.float32).sum()


class QwenVLTrainOneStepCell(MFTrainOneStepCell):
    """MindFormers' train step, which also runs off Ascend. Arguments, inputs and outputs: see `MFTrainOneStepCell`.

    The stock overflow check reads Ascend's status register (NPUGetFloatStatusV2, no CPU kernel); here the gradients are
    looked through for infinities and NaNs. On Ascend the stock check stays.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, **kwargs: Any):
        super().__init__(network, optimizer, **kwargs)
        self.stock_check = on_ascend()

    def get_overflow_status(self, status, compute_output):
        """Whether a gradient is not finite, a bool scalar, the same on every rank. `compute_output`: the gradients."""
        if self.stock_check:
            return super().get_overflow_status(status, compute_output)
        count = ops.addn(self.hyper_map(_count_not_finite, compute_output))
        if self.is_distributed:
            count = self.allreduce(count)
        return self.less_equal(self.base, count)


class FP32StateAdamWeightDecay(AdamW):
    """MindFormers' AdamW, whose moments are float32 too, under the name and the arguments of old YAMLs.

    Gone from MindFormers since 1.6. Unlike the old class, AdamW corrects the bias of the first steps' moments.
    """

    def __init__(self, params, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0, **kwargs):
        _gone("optimizer", "FP32StateAdamWeightDecay", f"AdamW with betas: [{beta1}, {beta2}] takes its place")
        super().__init__(params, learning_rate, (beta1, beta2), eps, weight_decay, **kwargs)


class ObsMonitor(Callback):
    """Does nothing: the upload to object storage is gone from MindFormers since 1.6, old YAMLs still name it."""

    def __init__(self, **kwargs: Any):
        super().__init__()
        _gone("callbacks", "ObsMonitor", "it does nothing and can be left out")


def _gone(section: str, name: str, instead: str) -> None:
    logger.warning("%s: type: %s is gone from MindFormers since 1.6; %s.", section, name, instead)
