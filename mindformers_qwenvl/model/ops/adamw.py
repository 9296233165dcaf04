"""AdamW in place on a CPU: two operators for each weight instead of a dozen and their temporary tensors."""

from __future__ import annotations

from collections.abc import Iterable

from mindspore import Parameter, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C

from mindformers_qwenvl.model.ops.device import unsharded

__all__ = ["can_update_in_place", "update_in_place"]

_adam = ops.Adam()
_shrink = ops.ApplyGradientDescent()
update_in_place = C.MultitypeFuncGraph("update_in_place")


def can_update_in_place(parameters: Iterable[Parameter]) -> bool:
    """Whether `update_in_place` may be used: off Ascend, with float32 parameters that are not split."""
    return unsharded() and all(parameter.dtype == mstype.float32 for parameter in parameters)


@update_in_place.register("Number", "Number", *["Tensor"] * 4, "Number", *["Tensor"] * 5)
def _update_weight(beta1, beta2, power1, power2, epsilon, rate, factor, decay, weight, gradient, mean, square):
    """AdamW step of one weight at `rate * factor`; `power1`, `power2`: the betas to the power of the step."""
    rate = rate * factor
    _shrink(weight, rate * decay, weight)  # weight -= rate * decay * weight
    _adam(weight, mean, square, power1, power2, rate, beta1, beta2, epsilon, gradient)
    return True
