"""The train step, the optimizer, and names of old YAMLs that MindFormers dropped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindformers.core.optim.adamw import AdamW
from mindformers.tools.logger import logger
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import dtype as mstype
from mindspore import nn, ops
from mindspore.ops import composite as C
from mindspore.ops import functional as F
from mindspore.train.callback import Callback

from mindformers_qwenvl.model.ops import on_ascend

__all__ = ["FP32StateAdamWeightDecay", "ObsMonitor", "QwenVLAdamW", "QwenVLTrainOneStepCell", "decay_rms_norms"]

RMS_NORM = re.compile(r"(^|\.)(attention_norm|ffn_norm|ln_f)\.weight$")
IGNORED = -100  # label of what is not learnt

_count_not_finite = C.MultitypeFuncGraph("count_not_finite")


@_count_not_finite.register("Tensor")
def _count_not_finite_tensor(gradient):
    return ops.cast(ops.logical_not(ops.isfinite(gradient)), mstype.float32).sum()


_add = C.MultitypeFuncGraph("add_gradients")


@_add.register("Tensor", "Tensor")
def _add_tensors(left, right):
    return left + right


class QwenVLTrainOneStepCell(MFTrainOneStepCell):
    """MindFormers' train step, which also runs off Ascend. Arguments, inputs and outputs: see `MFTrainOneStepCell`.

    The stock overflow check reads Ascend's status register (NPUGetFloatStatusV2, no CPU kernel); here the gradients are
    looked through for infinities and NaNs. On Ascend the stock check stays.

    In data parallel (`parallel_mode: 0` on several cards) each card counts by its label tokens: loss and gradients are
    those of one card with the whole batch, as they are in `semi_auto_parallel`, and the loss is the same on every card.
    The stock train step, and DistributedDataParallel or DeepSpeed under the original's finetune.py, average the cards'
    own averages, in which a token of a short answer counts more the shorter the answers beside it on the same card are;
    `weigh_cards: False` does so too, and the loss then is that of the card.

    With `accumulation_steps` above 1 the rows of a batch (`runner_config.batch_size` of them) are computed in so many
    parts, one after the other, their gradients added up, and the optimizer called once. Each part counts by its label
    tokens: loss and gradients are those of the whole batch. On a CPU the peak of memory falls by 3% only (four parts of
    64 rows); on Ascend it has not been measured. The host's `runner_config.gradient_accumulation_steps` does nothing
    but in `semi_auto_parallel`, where it weighs the parts alike.

    Raises:
        ValueError: accumulation_steps is no number of parts, does not divide the rows, or the parallel mode is one
            where the host cuts the batch.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Cell,
        accumulation_steps: int = 1,
        weigh_cards: bool = True,
        **kwargs: Any,
    ):
        super().__init__(network, optimizer, **kwargs)
        self.stock_check = on_ascend()
        if not isinstance(weigh_cards, bool):
            raise ValueError(f"runner_wrapper: weigh_cards must be True or False, got {weigh_cards!r}")
        if isinstance(accumulation_steps, bool) or not isinstance(accumulation_steps, int) or accumulation_steps < 1:
            raise ValueError(f"runner_wrapper: accumulation_steps must be 1 or more, got {accumulation_steps!r}")
        mode = ms.get_auto_parallel_context("parallel_mode")
        if accumulation_steps > 1 and mode in ("semi_auto_parallel", "auto_parallel"):
            raise ValueError(
                f"runner_wrapper: accumulation_steps={accumulation_steps} is for one card and data parallel; in {mode} "
                "use runner_config.gradient_accumulation_steps, with pipeline stages parallel_config.micro_batch_num"
            )
        self.accumulation_steps = accumulation_steps
        self.cards = self.degree if weigh_cards and self.reducer_flag else 1  # that share a batch

    def grads_for_legacy(self, scaling_sens, *inputs):
        """(loss, gradients scaled by `scaling_sens`, 1) of the batch `inputs`, whose last column is the labels."""
        if self.accumulation_steps == 1 and self.cards == 1:
            return super().grads_for_legacy(scaling_sens, *inputs)
        rows = inputs[-1].shape[0]
        if rows % self.accumulation_steps != 0:
            raise ValueError("runner_wrapper: accumulation_steps must divide the rows of the batch, batch_size")
        rows = rows // self.accumulation_steps
        tokens = self._label_tokens(inputs[-1])
        if self.cards > 1:  # over all of them, and their gradients will be averaged
            tokens = self.allreduce(tokens) / self.cards
        tokens = ops.maximum(tokens, ops.scalar_to_tensor(1.0 / self.cards))
        loss = ops.scalar_to_tensor(0.0)
        gradients = ()
        for part in range(self.accumulation_steps):
            piece = ()
            for column in inputs:
                piece = (*piece, column[part * rows : (part + 1) * rows])
            if part > 0:  # in this order, so that a device can use the memory of the part before again
                piece = F.depend(piece, gradients)
            share = self._label_tokens(piece[-1]) / tokens
            loss_of_part = self.network(*piece)
            sens = ops.ones_like(loss_of_part) * ops.cast(scaling_sens * share, loss_of_part.dtype)
            of_part = self.grad(self.network, self.weights)(*piece, sens)
            loss = loss + loss_of_part * share
            gradients = of_part if part == 0 else self.hyper_map(_add, gradients, of_part)
        if self.cards > 1:
            loss = self.allreduce(loss) / self.cards
        return loss, gradients, self.grad_scale_factor

    def _label_tokens(self, labels):
        """How many of labels int32 [B, S + 1] are learnt, float32 scalar. The first one is nobody's next token."""
        return ops.cast(labels[:, 1:] != IGNORED, mstype.float32).sum()

    def get_overflow_status(self, status, compute_output):
        """Whether a gradient is not finite, a bool scalar, the same on every rank. `compute_output`: the gradients."""
        if self.stock_check:
            return super().get_overflow_status(status, compute_output)
        count = ops.addn(self.hyper_map(_count_not_finite, compute_output))
        if self.is_distributed:
            count = self.allreduce(count)
        return self.less_equal(self.base, count)


class QwenVLAdamW(AdamW):
    """MindFormers' AdamW with the weight decay of the original's finetune.py: RMSNorm weights decay too.

    The host spares all vectors: biases, LayerNorm and RMSNorm. Hugging Face's Trainer, which finetune.py uses, spares
    biases and nn.LayerNorm, and the RMSNorm of Qwen is none. Moments are float32 whatever the weights are, and updates
    are computed in float32.

    Args:
        decay_rms_norm: False: as the host's AdamW.
        others: see `mindformers.core.optim.AdamW`.
    """

    def __init__(
        self,
        params,
        learning_rate=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        swap=False,
        decay_rms_norm=True,
    ):
        if decay_rms_norm:
            params = decay_rms_norms(params, weight_decay)
        super().__init__(params, learning_rate, betas, eps, weight_decay, swap)


def decay_rms_norms(groups: Sequence[Any], weight_decay: float) -> list[Any]:
    """The optimizer's parameter groups, with the weights of RMSNorms in groups of their own that decay."""
    regrouped = []
    for group in groups:
        if not isinstance(group, dict) or "params" not in group:
            regrouped.append(group)
            continue
        norms = [parameter for parameter in group["params"] if RMS_NORM.search(parameter.name)]
        others = [parameter for parameter in group["params"] if not RMS_NORM.search(parameter.name)]
        if others:
            regrouped.append({**group, "params": others})
        if norms:
            regrouped.append({**group, "params": norms, "weight_decay": weight_decay})
    return regrouped


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
