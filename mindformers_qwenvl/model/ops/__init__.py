"""The device seam: the operators that differ between Ascend (fused) and CPU (plain). Nothing else asks for the device.

Every cell computes in the shapes its docstring gives, on either device, and takes its sharding strategy as `dp`, `mp`.
"""

from __future__ import annotations

from mindformers_qwenvl.model.ops.attention import Attention
from mindformers_qwenvl.model.ops.bias import BiasAdd
from mindformers_qwenvl.model.ops.cpu.kernels import MOST_ROWS
from mindformers_qwenvl.model.ops.decode import decoder_kernel, head_kernel
from mindformers_qwenvl.model.ops.device import greedy_argmax, on_ascend, unsharded
from mindformers_qwenvl.model.ops.gelu import Gelu
from mindformers_qwenvl.model.ops.norm import RMSNorm, row_norm
from mindformers_qwenvl.model.ops.rotary import Rotary, RotaryTables

__all__ = [
    "MOST_ROWS",
    "Attention",
    "BiasAdd",
    "Gelu",
    "RMSNorm",
    "Rotary",
    "RotaryTables",
    "decoder_kernel",
    "greedy_argmax",
    "head_kernel",
    "on_ascend",
    "row_norm",
    "unsharded",
]
