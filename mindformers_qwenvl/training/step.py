"""The train step."""

from __future__ import annotations

from typing import Any

from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Parameter, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindformers_qwenvl.checks import arguments_of, refuse_unknown, switch, whole
from mindformers_qwenvl.host.accumulation import check_accumulation
from mindformers_qwenvl.host.context import is_sharded
from mindformers_qwenvl.model.ops import NotFinite, count_not_finite, has_overflow_register, square_sum

__all__ = ["QwenVLTrainOneStepCell"]

IGNORED = -100  # label of a token that is not trained
# Settings of the host's step that the one-pass step does not have.
HOST_ONLY = (
    "calculate_per_token_loss",
    "dump_device_local_norm",
    "if_dump",
    "local_norm",
    "print_separate_loss",
    "use_graceful_exit",
    "use_grouped_lr",
    "use_skip_data_by_global_norm",
)

_scale = C.MultitypeFuncGraph("scale_gradient")


@_scale.register("Tensor", "Tensor")
def _scale_gradient(factor, gradient):
    return ops.cast(gradient, mstype.float32) * factor


_add = C.MultitypeFuncGraph("add_gradients")


@_add.register("Tensor", "Tensor")
def _add_tensors(left, right):
    return left + right


class QwenVLTrainOneStepCell(MFTrainOneStepCell):
    """MindFormers' train step, which also runs off Ascend. Arguments, inputs and outputs: see `MFTrainOneStepCell`.

    The stock overflow check reads Ascend's status register (NPUGetFloatStatusV2, which has no CPU kernel). Off Ascend,
    an overflow here means that a gradient is not finite, or that the sum of squares is not, which clipping needs, too.

    In data parallel (`parallel_mode: 0` on several cards) each card is weighted by its label tokens: loss and gradients
    are those of one card with the whole batch, as in `semi_auto_parallel`, and the loss is the same on every card. The
    stock train step averages the cards' own averages, as DistributedDataParallel and DeepSpeed do in the original's
    finetune.py: a token then counts more if its card has few others. With `weigh_cards: False` this step does so, too,
    and the loss is that of the card.

    With `accumulation_steps` above 1, the rows of a batch (`runner_config.batch_size`) are computed in that many parts,
    one after the other; their gradients are added up, and the optimizer is called once. Each part is weighted by its
    label tokens: loss and gradients are those of the whole batch. On a CPU, peak memory falls by only 3% (64 rows in
    four parts); on Ascend it has not been measured. The host's `runner_config.gradient_accumulation_steps` only works
    in `semi_auto_parallel`, where it gives all parts the same weight.

    Raises:
        ValueError: accumulation_steps is not a whole number of 1 or more, does not divide the rows, or is set in a
            parallel mode where the host splits the batch.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Cell,
        accumulation_steps: int = 1,
        weigh_cards: bool = True,
        **kwargs: Any,
    ):
        refuse_unknown("runner_wrapper (QwenVLTrainOneStepCell)", kwargs, _ARGUMENTS)
        super().__init__(network, optimizer, **kwargs)
        if isinstance(self.learning_rate, Parameter):
            # A constant rate. The host copies it, and when two parameters have the same name, MindSpore renames all in
            # the cell by their places: checkpoints would hold network.llm_model..., which nothing reads.
            self.learning_rate = optimizer.learning_rate
        self.has_overflow_register = has_overflow_register()
        self.not_finite = NotFinite()
        switch("runner_wrapper: weigh_cards", weigh_cards)
        whole("runner_wrapper: accumulation_steps", accumulation_steps)
        check_accumulation(sharded=is_sharded(), accumulation_steps=accumulation_steps)
        self.accumulation_steps = accumulation_steps
        self.max_grad_norm = float(kwargs.get("max_grad_norm", 1.0))
        self.square_sum = square_sum()
        host_only = [name for name in HOST_ONLY if getattr(self, name, False)]  # a host may not have all of them
        self.one_pass = self.square_sum is not None and getattr(self, "use_legacy", True) and not host_only
        self.cards = self.degree if weigh_cards and self.reducer_flag else 1  # that share a batch
        if self.reducer_flag and not weigh_cards and not self.mean:
            raise ValueError(
                "runner_wrapper: weigh_cards: False takes the mean of the cards' gradients, but "
                "parallel.gradients_mean: False takes their sum; set parallel.gradients_mean: True"
            )
        self.reducer_divisor = self.cards if self.cards > 1 and self.mean else 1  # of the sum over the cards

    def construct(self, *inputs):
        """See `MFTrainOneStepCell`. Off Ascend, one multiplication removes the loss scale from the gradients and clips
        them; the host writes all gradients twice.
        """
        if not self.one_pass:
            return super().construct(*inputs)
        scale = self.scale_sense
        loss, gradients, _ = self.grads_for_legacy(scale, *inputs)
        gradients = self.grad_reducer(gradients)
        unscale = ops.reciprocal(scale)  # before process_loss_scale changes it for the next step
        norm, factor = None, unscale
        squares = self.square_sum(gradients)
        if self.use_clip_grad:
            norm = ops.sqrt(squares) * factor
            factor = factor * ops.minimum(self.max_grad_norm / (norm + 1e-6), 1.0)  # as torch's clip_grad_norm_
        overflow = self.process_loss_scale(self._on_any_rank(count_not_finite(squares)))
        gradients = self.hyper_map(F.partial(_scale, factor), gradients)
        rate = self.learning_rate
        if self.optimizer.dynamic_lr:
            schedule = rate[-1] if self.optimizer.is_group_lr else rate
            rate = schedule(self.optimizer.global_step).reshape(())
        if not overflow:
            loss = F.depend(loss, self.optimizer(gradients))
        # The scale of this step: process_loss_scale has already overwritten the parameter.
        return loss, overflow, ops.reciprocal(unscale), rate, norm

    def grads_for_legacy(self, scaling_sens, *inputs):
        """(loss, gradients scaled by `scaling_sens`, 1) of the batch `inputs`, whose last column is the labels."""
        if self.accumulation_steps == 1 and self.cards == 1:
            return super().grads_for_legacy(scaling_sens, *inputs)
        rows = inputs[-1].shape[0]
        if rows % self.accumulation_steps != 0:
            raise ValueError("runner_wrapper: accumulation_steps must divide the rows of the batch, batch_size")
        rows = rows // self.accumulation_steps
        tokens = self._label_tokens(inputs[-1])
        if self.cards > 1:  # the tokens of all cards
            tokens = self.allreduce(tokens) / self.reducer_divisor
        tokens = ops.maximum(tokens, ops.scalar_to_tensor(1.0 / self.reducer_divisor))
        loss = ops.scalar_to_tensor(0.0)
        gradients = ()
        for part in range(self.accumulation_steps):
            piece = ()
            for column in inputs:
                piece = (*piece, column[part * rows : (part + 1) * rows])
            if part > 0:  # one after the other, so that a device can reuse the memory of the previous part
                piece = F.depend(piece, gradients)
            share = self._label_tokens(piece[-1]) / tokens
            loss_of_part = self.network(*piece)
            sens = ops.ones_like(loss_of_part) * ops.cast(scaling_sens * share, loss_of_part.dtype)
            of_part = self.grad(self.network, self.weights)(*piece, sens)
            loss = loss + loss_of_part * share
            gradients = of_part if part == 0 else self.hyper_map(_add, gradients, of_part)
        if self.cards > 1:
            loss = self.allreduce(loss) / self.reducer_divisor
        return loss, gradients, self.grad_scale_factor

    def _label_tokens(self, labels):
        """How many of labels int32 [B, S + 1] are trained, a float32 scalar; the first label of a row never is."""
        return ops.cast(labels[:, 1:] != IGNORED, mstype.float32).sum()

    def get_overflow_status(self, status, compute_output):
        """Whether a gradient is not finite: a bool scalar, the same on every rank. `compute_output`: the gradients."""
        if self.has_overflow_register:
            return super().get_overflow_status(status, compute_output)
        return self._on_any_rank(self.not_finite(compute_output))

    def _on_any_rank(self, count):
        """Whether the float32 `count` is 1 or more on any rank."""
        if self.is_distributed:
            count = self.allreduce(count)
        return self.less_equal(self.base, count)


# Arguments of the host's step, which drops those it does not know; the trainer adds the ones in the last line.
_ARGUMENTS = (
    *(name for cls in (MFTrainOneStepCell, QwenVLTrainOneStepCell) for name in arguments_of(cls)),
    *HOST_ONLY,
    *("parallel_config", "global_norm_spike_threshold", "grouped_lr_scheduler", "lr_scheduler", "model"),
)
