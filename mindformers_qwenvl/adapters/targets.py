"""What an adapter is part of: layers by the original's names, and parts of the network. Pure Python."""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.adapters.settings import AdapterSettings, is_saved, matches
from mindformers_qwenvl.config.original import original_sizes
from mindformers_qwenvl.weights.names import to_original
from mindformers_qwenvl.weights.parts import part_of
from mindformers_qwenvl.weights.shapes import our_shapes

__all__ = ["is_target", "touched_parts"]

# Tensors of the original whose layers may have an adapter.
_LAYERS = ("c_attn.weight", "c_proj.weight", "w1.weight", "w2.weight", "lm_head.weight", "in_proj.weight")
_LAYERS += ("out_proj.weight", "c_fc.weight", "kv_proj.weight")


def is_target(tensor: str, adapter: AdapterSettings) -> bool:
    """Whether the adapter has factors for the original's `tensor`, the weight of a layer."""
    module = tensor.removesuffix(".weight")
    return tensor.endswith(_LAYERS) and matches(module, adapter.targets)


def touched_parts(adapter: AdapterSettings, vision: Any, llm: Any) -> set[str]:
    """The parts in which anything is trained: an adapter in it, or a weight that modules_to_save names.

    Args:
        vision, llm: with the attributes of `VisionSettings` and `LanguageSettings`.
    """
    names = {name: to_original(name).name for name in our_shapes(original_sizes(vision, llm))}
    return {
        part_of(name)
        for name, original in names.items()
        if is_target(original, adapter) or is_saved(original, adapter.modules_to_save)
    }
