"""AdamW with the original's groups of weight decay, in place on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindformers.core.optim.adamw import AdamW
from mindspore import ops
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindformers_qwenvl.checks import number
from mindformers_qwenvl.host.optimizer import adamw_step
from mindformers_qwenvl.model.ops import can_update_in_place, update_in_place
from mindformers_qwenvl.weights.parts import is_rms_norm, rate_factors

__all__ = ["QwenVLAdamW", "decay_rms_norms"]

_update = C.MultitypeFuncGraph("update")


@_update.register(*["Tensor"] * 5, "Number", *["Tensor"] * 5, "Bool")
def _update_as_host(beta1, beta2, epsilon, step, rate, factor, decay, weight, gradient, mean, square, chosen):
    """The host's step of one weight, at `rate * factor`."""
    return adamw_step(beta1, beta2, epsilon, step, rate * factor, decay, weight, gradient, mean, square, chosen)


class QwenVLAdamW(AdamW):
    """MindFormers' AdamW with the weight decay of the original's finetune.py: RMSNorm weights decay too.

    The host exempts all vectors: biases, LayerNorm and RMSNorm. Hugging Face's Trainer, which finetune.py uses, exempts
    biases and nn.LayerNorm, and Qwen's RMSNorm is not an nn.LayerNorm. Moments and updates are float32, whatever the
    type of the weights.

    On a CPU, float32 weights are updated in place, by two operators instead of the host's dozen, which need temporary
    tensors.

    Args:
        decay_rms_norm: False exempts RMSNorm weights too, as the host does.
        vision_lr_decay: factor of the learning rate from each layer of the vision tower to the one below, see
            `weights.parts.rate_factors`. The paper's stages 1 and 2 have 0.95.
        lora_plus_ratio: ratio of the learning rate of an adapter's B to that of its A (LoRA+, arXiv 2402.12354).
        others: see `mindformers.core.optim.AdamW`.

    Raises:
        ValueError: vision_lr_decay is not above 0 and at most 1, or lora_plus_ratio is not above 0.
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
        vision_lr_decay=1.0,
        lora_plus_ratio=1.0,
    ):
        number("optimizer: lora_plus_ratio", lora_plus_ratio, above=0)
        if not any(isinstance(group, dict) for group in params):
            params = [{"params": list(params), "weight_decay": weight_decay}]
        if decay_rms_norm:
            params = decay_rms_norms(params, weight_decay)
        super().__init__(params, learning_rate, betas, eps, weight_decay, swap)
        self.betas = tuple(betas)
        # Not MindSpore's groups of rates: they make a tensor for each weight, and compiling 9.6B then takes 20 GB more.
        names = [parameter.name for parameter in self.parameters]
        factors = rate_factors(names, vision_lr_decay)
        self.factors = tuple(
            factor * lora_plus_ratio if name.endswith(".lora_b.weight") else factor
            for name, factor in zip(names, factors, strict=True)
        )
        self.one_rate = all(factor == 1 for factor in self.factors)
        self.in_place = not swap and can_update_in_place(self.parameters)

    def construct(self, gradients):
        """Update the weights by `gradients`, a tuple with one tensor for each weight."""
        if not self.in_place and self.one_rate:
            return super().construct(gradients)
        decay, rate = self.get_weight_decay(), self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        states = (self.parameters, gradients, self.exp_avg, self.exp_avg_sq)
        if self.in_place:
            beta1, beta2 = self.betas
            power1 = ops.pow(self.beta1, self.global_step).reshape(())
            power2 = ops.pow(self.beta2, self.global_step).reshape(())
            # The operator adds epsilon to sqrt(v), AdamW to sqrt(v / (1 - beta2^t)).
            epsilon = self.eps.reshape(()) * ops.sqrt(1 - power2)
            # A partial for each case: MindSpore does not support a partial of a partial, nor partial(*constants).
            if self.is_group_lr:
                update = F.partial(update_in_place, beta1, beta2, power1, power2, epsilon)
                return self.hyper_map(update, rate, self.factors, decay, *states)
            update = F.partial(update_in_place, beta1, beta2, power1, power2, epsilon, rate)
            return self.hyper_map(update, self.factors, decay, *states)
        if self.is_group_lr:
            update = F.partial(_update, self.beta1, self.beta2, self.eps, self.global_step)
            updated = self.hyper_map(update, rate, self.factors, decay, *states, self.optim_filter)
        else:
            update = F.partial(_update, self.beta1, self.beta2, self.eps, self.global_step, rate)
            updated = self.hyper_map(update, self.factors, decay, *states, self.optim_filter)
        if self.use_parallel:
            self.broadcast_params(updated)
        return updated


def decay_rms_norms(groups: Sequence[Any], weight_decay: float) -> list[Any]:
    """The optimizer's parameter groups, with the weights of RMSNorms in groups of their own that decay."""
    regrouped = []
    for group in groups:
        if not isinstance(group, dict) or "params" not in group:
            regrouped.append(group)
            continue
        norms = [parameter for parameter in group["params"] if is_rms_norm(parameter.name)]
        others = [parameter for parameter in group["params"] if not is_rms_norm(parameter.name)]
        if others:
            regrouped.append({**group, "params": others})
        if norms:
            regrouped.append({**group, "params": norms, "weight_decay": weight_decay})
    return regrouped
