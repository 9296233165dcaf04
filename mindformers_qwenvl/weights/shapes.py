"""Shapes of every weight, from the original config.json alone: nothing is allocated. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mindformers_qwenvl.architecture import VIT_POSITIONS
from mindformers_qwenvl.weights.names import to_ours

__all__ = ["check_shapes", "original_shapes", "our_shapes", "parameter_count"]

Shape = tuple[int, ...]

QUERIES = 256  # visual.n_queries where config.json leaves it out, as the published one does


def original_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape of every tensor of the original checkpoint that `config` (its config.json) describes.

    Source: modeling_qwen.py and visual.py of the original.

    Raises:
        ValueError: the config lacks a field (it is named).
    """
    try:
        return _language(config) | _vision(config["visual"])
    except KeyError as error:
        raise ValueError(f"config.json is not that of a Qwen-VL: it has no {error.args[0]!r}") from None


def _language(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    heads = config["kv_channels"] * config["num_attention_heads"]
    mlp = config["intermediate_size"] // 2  # the config counts w1 and w2 together
    shapes: dict[str, Shape] = {"transformer.wte.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"transformer.h.{layer}."
        shapes |= {
            f"{block}ln_1.weight": (hidden,),
            f"{block}attn.c_attn.weight": (3 * heads, hidden),
            f"{block}attn.c_attn.bias": (3 * heads,),
            f"{block}attn.c_proj.weight": (heads, hidden),
            f"{block}ln_2.weight": (hidden,),
            f"{block}mlp.w1.weight": (mlp, hidden),
            f"{block}mlp.w2.weight": (mlp, hidden),
            f"{block}mlp.c_proj.weight": (hidden, mlp),
        }
    return shapes | {"transformer.ln_f.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def _vision(visual: Mapping[str, Any]) -> dict[str, Shape]:
    width, out, patch = visual["width"], visual["output_dim"], visual["patch_size"]
    mlp = int(width * visual["mlp_ratio"])
    queries = visual.get("n_queries", QUERIES)
    shapes: dict[str, Shape] = {
        "positional_embedding": (VIT_POSITIONS, width),
        "proj": (out, out),
        "conv1.weight": (width, 3, patch, patch),
        **_norm("ln_pre", width),
    }
    for layer in range(visual["layers"]):
        block = f"transformer.resblocks.{layer}."
        shapes |= {
            **_norm(f"{block}ln_1", width),
            **_norm(f"{block}ln_2", width),
            **_dense(f"{block}attn.in_proj", 3 * width, width),
            **_dense(f"{block}attn.out_proj", width, width),
            **_dense(f"{block}mlp.c_fc", mlp, width),
            **_dense(f"{block}mlp.c_proj", width, mlp),
        }
    shapes |= {"attn_pool.pos_embed": (queries, out), "attn_pool.query": (queries, out)}
    if width != out:  # equal widths need no projection, and the original then has none
        shapes["attn_pool.kv_proj.weight"] = (out, width)
    shapes |= {
        "attn_pool.attn.in_proj_weight": (3 * out, out),
        "attn_pool.attn.in_proj_bias": (3 * out,),
        **_dense("attn_pool.attn.out_proj", out, out),
        **_norm("attn_pool.ln_q", out),
        **_norm("attn_pool.ln_kv", out),
        **_norm("ln_post", out),
    }
    return {f"transformer.visual.{name}": shape for name, shape in shapes.items()}


def _norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _dense(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def our_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape of every parameter of this network, for an original config.json."""
    shapes = {}
    for name, (rows, *rest) in original_shapes(config).items():
        parts = to_ours(name)
        shapes |= {part: (rows // len(parts), *rest) for part in parts}
    return shapes


def parameter_count(config: Mapping[str, Any]) -> int:
    """How many numbers the checkpoint holds (the published config: 9,656,935,168)."""
    return sum(math.prod(shape) for shape in original_shapes(config).values())


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], where: str) -> None:
    """Compare the tensors of a checkpoint with what its config asks for.

    Raises:
        ValueError: tensors are missing, unknown, or have another shape; the message lists them.
    """
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"{len(missing)} missing: {listed(missing)}")
    if extra := [name for name in found if name not in expected]:
        faults.append(f"{len(extra)} not of this model: {listed(extra)}")
    wrong = [
        f"{name} is {list(found[name])}, config.json asks for {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if wrong:
        faults.append(f"{len(wrong)} of another shape: {listed(wrong, '; ')}")
    if faults:
        raise ValueError(f"{where} does not fit its config.json.\n  " + "\n  ".join(faults))


def listed(items: Iterable[str], separator: str = ", ", limit: int = 40) -> str:
    """The items in one line, shortened in the middle when there are more than `limit`."""
    items = list(items)
    if len(items) <= limit:
        return separator.join(items)
    head, tail = items[: limit - 10], items[-10:]
    return separator.join([*head, f"... {len(items) - limit} more ...", *tail])
