"""How many cards share a parameter, by its name: model parallel and optimizer parallel. Plain Python.

The strategies themselves are beside the layers, in model/; tests/sharding compiles the network and compares.
"""

from __future__ import annotations

import re

from mindformers_qwenvl.weights.parts import is_norm

__all__ = ["model_parallel_axis", "optimizer_parallel_shares"]

ROWS, COLUMNS = 0, 1  # of a product y = x W^T, the outputs and the inputs; `proj` is used as x W
# Everything else is whole on every card.
_CUT = (
    (r"(?:wte\.embedding_weight|lm_head\.weight)$", ROWS),  # with vocab_emb_dp: whole
    (r"\.w[qkv]\.(?:weight|bias)$", ROWS),
    (r"\.(?:w1|w3|in_proj|c_fc)\.(?:weight|bias)$", ROWS),
    (r"(?:conv1|kv_proj)\.weight$", ROWS),
    (r"\.(?:wo|w2|out_proj|c_proj)\.weight$", COLUMNS),
    (r"(?:^|\.)vision_encoder\.proj$", COLUMNS),
)
_CUT = tuple((re.compile(pattern), axis) for pattern, axis in _CUT)
_VOCABULARY = _CUT[0][0]
_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<kind>[ab])\.weight")
# `parallel_optimizer=False` is set on these, in model/ and in MindFormers' Linear and LayerNorm.
_NEVER_SHARED = re.compile(r"\.bias$|positional_embedding$|attn_pool\.(?:query|pos_embed)$")


def model_parallel_axis(name: str, vocab_emb_dp: bool = False) -> int | None:
    """The axis along which model_parallel cuts the parameter `name`; None if every card has all of it.

    Args:
        vocab_emb_dp: `parallel_config.vocab_emb_dp`: embedding and head are not cut.
    """
    if factor := _FACTOR.fullmatch(name):  # of an adapter: B is cut as the layer's outputs are, A as its inputs
        axis = model_parallel_axis(f"{factor['layer']}.weight", vocab_emb_dp)
        return axis if axis == (COLUMNS if factor["kind"] == "a" else ROWS) else None
    if vocab_emb_dp and _VOCABULARY.search(name):
        return None
    return next((axis for pattern, axis in _CUT if pattern.search(name)), None)


def optimizer_parallel_shares(name: str) -> bool:
    """Whether optimizer parallelism may split the rows of the parameter `name` over cards."""
    return not is_norm(name) and _NEVER_SHARED.search(name) is None
