"""The device seam: the operators that differ between Ascend (fused) and CPU (plain). They ask which device it is.

Every cell has the shapes that its docstring gives, on either device, and takes its sharding strategy as `dp`, `mp`. A
function that returns a cell or None returns None where that cell may not be used.

- `device`: which device it is and what operators it has.
- `attention`, `rotary`, `norm`, `gelu`, `linear`: of the layers.
- `loss`, `gradients`, `adamw`: of a train step.
- `decode`, `cpu`: our own operators for decoding on a CPU.
"""

from __future__ import annotations

from mindformers_qwenvl.model.ops.adamw import can_update_in_place, update_in_place
from mindformers_qwenvl.model.ops.attention import Attention
from mindformers_qwenvl.model.ops.cpu.kernels import MOST_ROWS
from mindformers_qwenvl.model.ops.decode import decoder_kernel, head_kernel, reads_by_length
from mindformers_qwenvl.model.ops.device import can_compute_in, fused_or_plain, greedy_argmax, logits_to_choose_from
from mindformers_qwenvl.model.ops.gelu import Gelu
from mindformers_qwenvl.model.ops.gradients import NotFinite, count_not_finite, has_overflow_register, square_sum
from mindformers_qwenvl.model.ops.linear import bias_add
from mindformers_qwenvl.model.ops.loss import LabelLoss, LabelTokens
from mindformers_qwenvl.model.ops.norm import RMSNorm, row_norm
from mindformers_qwenvl.model.ops.rotary import Rotary, RotaryTables

__all__ = [
    "MOST_ROWS",
    "Attention",
    "Gelu",
    "LabelLoss",
    "LabelTokens",
    "NotFinite",
    "RMSNorm",
    "Rotary",
    "RotaryTables",
    "bias_add",
    "can_compute_in",
    "can_update_in_place",
    "count_not_finite",
    "decoder_kernel",
    "fused_or_plain",
    "greedy_argmax",
    "has_overflow_register",
    "head_kernel",
    "logits_to_choose_from",
    "reads_by_length",
    "row_norm",
    "square_sum",
    "update_in_place",
]
