"""One table of weight names: the original Qwen-VL checkpoint <-> this network. Pure Python.

`{}` stands for a layer number. An original tensor that belongs to several of our parameters is split along its rows
into equal parts, in the order given: `c_attn` and the resampler's `in_proj` hold [q; k; v]. (The vision tower's
`in_proj` is interleaved per head and stays whole.) `()` marks a tensor dropped on purpose. The way back is computed
from the same table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TABLE", "Part", "is_dropped", "is_training_state", "layout", "to_original", "to_ours"]

_LANGUAGE: dict[str, str | tuple[str, ...]] = {
    "wte.weight": "wte.embedding_weight",
    "h.{}.ln_1.weight": "layers.{}.attention_norm.weight",
    "h.{}.attn.c_attn.weight": tuple(f"layers.{{}}.attention.{part}.weight" for part in ("wq", "wk", "wv")),
    "h.{}.attn.c_attn.bias": tuple(f"layers.{{}}.attention.{part}.bias" for part in ("wq", "wk", "wv")),
    "h.{}.attn.c_proj.weight": "layers.{}.attention.wo.weight",
    "h.{}.ln_2.weight": "layers.{}.ffn_norm.weight",
    "h.{}.mlp.w1.weight": "layers.{}.feed_forward.w1.weight",
    "h.{}.mlp.w2.weight": "layers.{}.feed_forward.w3.weight",
    "h.{}.mlp.c_proj.weight": "layers.{}.feed_forward.w2.weight",
    "ln_f.weight": "ln_f.weight",
    # Buffers of old exports; the original ignores them on loading (modeling_qwen.py, _keys_to_ignore_on_load_*).
    "h.{}.attn.masked_bias": (),
    "h.{}.attn.rotary_emb.inv_freq": (),
    "rotary_emb.inv_freq": (),
}

_VISION: dict[str, str | tuple[str, ...]] = {
    "conv1.weight": "conv1.weight",
    "positional_embedding": "positional_embedding",
    "proj": "proj",
    "transformer.resblocks.{}.attn.in_proj.weight": "transformer.resblocks.{}.attn.in_proj.weight",
    "transformer.resblocks.{}.attn.in_proj.bias": "transformer.resblocks.{}.attn.in_proj.bias",
    "transformer.resblocks.{}.attn.out_proj.weight": "transformer.resblocks.{}.attn.out_proj.weight",
    "transformer.resblocks.{}.attn.out_proj.bias": "transformer.resblocks.{}.attn.out_proj.bias",
    "transformer.resblocks.{}.mlp.c_fc.weight": "transformer.resblocks.{}.mlp.c_fc.weight",
    "transformer.resblocks.{}.mlp.c_fc.bias": "transformer.resblocks.{}.mlp.c_fc.bias",
    "transformer.resblocks.{}.mlp.c_proj.weight": "transformer.resblocks.{}.mlp.c_proj.weight",
    "transformer.resblocks.{}.mlp.c_proj.bias": "transformer.resblocks.{}.mlp.c_proj.bias",
    "attn_pool.pos_embed": "attn_pool.pos_embed",
    "attn_pool.query": "attn_pool.query",
    "attn_pool.kv_proj.weight": "attn_pool.kv_proj.weight",  # absent when the vision width equals output_dim
    "attn_pool.attn.in_proj_weight": tuple(f"attn_pool.attn.{part}.weight" for part in ("wq", "wk", "wv")),
    "attn_pool.attn.in_proj_bias": tuple(f"attn_pool.attn.{part}.bias" for part in ("wq", "wk", "wv")),
    "attn_pool.attn.out_proj.weight": "attn_pool.attn.wo.weight",
    "attn_pool.attn.out_proj.bias": "attn_pool.attn.wo.bias",
}
for _norm in (
    "ln_pre",
    "transformer.resblocks.{}.ln_1",
    "transformer.resblocks.{}.ln_2",
    "attn_pool.ln_q",
    "attn_pool.ln_kv",
):
    _VISION |= {f"{_norm}.weight": f"{_norm}.gamma", f"{_norm}.bias": f"{_norm}.beta"}
_VISION |= {"ln_post.weight": "ln_post.gamma", "ln_post.bias": "ln_post.beta"}


def _prefixed(theirs: str, ours: str, table: dict[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {
        theirs + name: tuple(ours + target for target in ((targets,) if isinstance(targets, str) else targets))
        for name, targets in table.items()
    }


TABLE: dict[str, tuple[str, ...]] = {
    **_prefixed("transformer.", "llm_model.transformer.", _LANGUAGE),
    "lm_head.weight": ("llm_model.lm_head.weight",),
    **_prefixed("transformer.visual.", "vision_encoder.", _VISION),
}
"""Original pattern -> our patterns: one, several (equal row parts, in order) or none (dropped)."""


@dataclass(frozen=True)
class Part:
    """Where one of our parameters is in the original: rows `index/of .. (index+1)/of` of tensor `name`."""

    name: str
    index: int
    of: int


_INVERSE: dict[str, Part] = {
    target: Part(name, index, len(targets)) for name, targets in TABLE.items() for index, target in enumerate(targets)
}

_LAYER = re.compile(r"(?<=\.)(0|[1-9][0-9]*)(?=\.)")

# What MindSpore and MindFormers save beside the weights of a training; the original has no such tensors.
_TRAINING_PREFIX = (
    "adam_m.",
    "adam_v.",
    "exp_avg.",
    "exp_avg_sq.",
    "max_exp_avg_sq.",
    "moment1.",
    "moment2.",
    "moments.",
    "vhat.",
)
_TRAINING_PREFIX += ("accu_grads.", "scaler.")
_TRAINING_NAMES = {
    "__exception_save__",
    "beta1_power",
    "beta2_power",
    "current_iterator_step",
    "epoch_num",
    "global_batch_size",
    "global_step",
    "last_overflow_iterator_step",
    "learning_rate",
    "loss_scale",
    "scale_sense",
    "step_num",
    "weight_decay",
}


def _pattern(name: str) -> tuple[str, str | None]:
    """`transformer.h.12.ln_1.weight` -> (`transformer.h.{}.ln_1.weight`, `12`); a name has at most one layer number."""
    match = _LAYER.search(name)
    if match is None or "{}" in name:
        return name, None
    return f"{name[: match.start()]}{{}}{name[match.end() :]}", match.group()


def to_ours(name: str) -> tuple[str, ...]:
    """Our names for the original tensor `name`: equal row parts in order, `()` where it is dropped on purpose.

    Raises:
        ValueError: the table has no such name.
    """
    pattern, layer = _pattern(name)
    if pattern not in TABLE or (layer is None) == ("{}" in pattern):
        raise ValueError(f"{name!r} is not a tensor of an original Qwen-VL checkpoint")
    return tuple(target.replace("{}", layer or "") for target in TABLE[pattern])


def to_original(name: str) -> Part:
    """The original tensor, and the part of its rows, that our parameter `name` stands for.

    Raises:
        ValueError: the table has no such name.
    """
    pattern, layer = _pattern(name)
    if pattern not in _INVERSE or (layer is None) == ("{}" in pattern):
        raise ValueError(f"{name!r} is not a parameter of this Qwen-VL")
    part = _INVERSE[pattern]
    return Part(part.name.replace("{}", layer or ""), part.index, part.of)


def is_dropped(name: str) -> bool:
    """Whether `name` is an original tensor without a place in this network: a buffer of old exports."""
    try:
        return not to_ours(name)
    except ValueError:
        return False


def is_training_state(name: str) -> bool:
    """Whether `name` is optimizer or loop state that MindFormers saves beside the weights of a training."""
    return name in _TRAINING_NAMES or name.startswith(_TRAINING_PREFIX)


def layout(names: Iterable[str], where: str) -> str:
    """`"original"` or `"ours"`: the layout to which more of `names` belong.

    Raises:
        ValueError: neither layout has any of them. The message says `where` they come from.
    """
    names = list(names)
    theirs = sum(_pattern(name)[0] in TABLE for name in names)
    ours = sum(_pattern(name)[0] in _INVERSE for name in names)
    if not theirs and not ours:
        shown = ", ".join(sorted(names)[:5]) or "no tensors at all"
        raise ValueError(f"{where} is not a Qwen-VL checkpoint: found {shown}; expected names like {next(iter(TABLE))}")
    return "original" if theirs >= ours else "ours"
