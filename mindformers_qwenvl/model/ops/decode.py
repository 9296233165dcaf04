"""Our own operators for decoding graphs on a CPU, or None if they are not available: then plain cells do the work."""

from __future__ import annotations

from mindspore import dtype as mstype
from mindspore import nn

from mindformers_qwenvl.model.ops.cpu.kernels import MOST_ROWS, DecoderLayer, LinearRows, library
from mindformers_qwenvl.model.ops.device import on_ascend, unsharded

__all__ = ["decoder_kernel", "head_kernel", "reads_by_length"]


def decoder_kernel(layer: nn.Cell, config) -> nn.Cell | None:
    """A `DecoderLayer` that does the work of `layer`, a `QwenDecoderLayer`, with the adapters that it has now."""
    types = (config.compute_dtype, config.softmax_compute_type, config.layernorm_compute_type, config.rotary_dtype)
    if not _may_have_kernels(config) or any(kind != mstype.float32 for kind in types):
        return None
    attention, mlp = layer.attention, layer.feed_forward
    scales = [part.lora_a.scale if part.adapted else 1.0 for part in (attention, attention.wo, mlp.w1, mlp.w3, mlp.w2)]
    return DecoderLayer(config.rms_norm_eps, config.block_size, scales)


def head_kernel(config) -> nn.Cell | None:
    """A `LinearRows` for the head of the language model of `config`."""
    return LinearRows() if _may_have_kernels(config) and config.compute_dtype == mstype.float32 else None


def reads_by_length(kernel: nn.Cell | None, rows: int) -> bool:
    """Whether decoding `rows` rows with this `decoder_kernel` reads only what a row has in the cache, not all that its
    block table could hold."""
    return (kernel is not None and rows <= MOST_ROWS) or on_ascend()


def _may_have_kernels(config) -> bool:
    return config.use_past and unsharded() and library() is not None
