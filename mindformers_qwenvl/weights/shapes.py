"""Shapes of every weight, from the original config.json alone: nothing is allocated. Pure Python."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mindformers_qwenvl.checks import is_number, is_whole, printable
from mindformers_qwenvl.config.sizes import VIT_POSITIONS, VisionSettings
from mindformers_qwenvl.weights.names import to_ours

__all__ = ["check_shapes", "original_shapes", "our_shapes", "whole_number"]

Shape = tuple[int, ...]

MOST_LAYERS = 10_000  # more is a typing error, and their names would fill the memory
MOST_RATIO = 1_000


def original_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name -> shape of every tensor of the original checkpoint that `config` (its config.json) describes.

    Source: modeling_qwen.py and visual.py of the original.

    Raises:
        ValueError: the config lacks a field, or one is not a number in its range; the message names it.
    """
    try:
        if not isinstance(visual := config["visual"], Mapping):
            raise ValueError(
                f"config.json: visual is {_shown(visual)}, expected an object with the fields of the vision tower"
            )
        return _language(config) | _vision(visual)
    except KeyError as error:
        raise ValueError(f"config.json is not the config.json of a Qwen-VL: it has no {error.args[0]!r}") from None


def _shown(value: object) -> str:
    """The value in JSON's spelling, as in the file; a long one is cut."""
    return f"{json.dumps(value, default=repr):.60}"


def whole_number(settings: Mapping[str, Any], key: str) -> int:
    """The size that `settings`, config.json or a part of it, has under `key`.

    Raises:
        KeyError: it is missing.
        ValueError: it is not a whole number of 1 or more.
    """
    value = settings[key]
    if not is_whole(value, 1):
        raise ValueError(f"config.json: {key} is {_shown(value)}, expected a whole number of 1 or more")
    return value


def _layers(settings: Mapping[str, Any], key: str) -> int:
    count = whole_number(settings, key)
    if not is_whole(count, 1, MOST_LAYERS):
        raise ValueError(f"config.json: {key} is {_shown(count)}, expected a whole number from 1 to {MOST_LAYERS}")
    return count


def _ratio(settings: Mapping[str, Any], key: str) -> Any:
    value = settings[key]
    if not is_number(value, above=0, below=MOST_RATIO):
        raise ValueError(f"config.json: {key} is {_shown(value)}, expected a number above 0 and below {MOST_RATIO}")
    return value


def _language(config: Mapping[str, Any]) -> dict[str, Shape]:
    hidden, vocab = whole_number(config, "hidden_size"), whole_number(config, "vocab_size")
    heads = whole_number(config, "kv_channels") * whole_number(config, "num_attention_heads")
    mlp = whole_number(config, "intermediate_size") // 2  # the config counts w1 and w2 together
    shapes: dict[str, Shape] = {"transformer.wte.weight": (vocab, hidden)}
    for layer in range(_layers(config, "num_hidden_layers")):
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
    width, out, patch = (whole_number(visual, key) for key in ("width", "output_dim", "patch_size"))
    mlp = int(width * _ratio(visual, "mlp_ratio"))
    # The published config.json leaves it out.
    queries = whole_number({"n_queries": VisionSettings.num_queries, **visual}, "n_queries")
    shapes: dict[str, Shape] = {
        "positional_embedding": (VIT_POSITIONS, width),
        "proj": (out, out),
        "conv1.weight": (width, 3, patch, patch),
        **_norm("ln_pre", width),
    }
    for layer in range(_layers(visual, "layers")):
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


def check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], where: str) -> None:
    """Compare the tensors of a checkpoint with those its config describes.

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
        raise ValueError(f"{where} does not match its config.json.\n  " + "\n  ".join(faults))


def listed(items: Iterable[str], separator: str = ", ", limit: int = 40) -> str:
    """The items in one line, control characters escaped, shortened in the middle when there are more than `limit`."""
    items = [printable(item) for item in items]
    if len(items) <= limit:
        return separator.join(items)
    head, tail = items[: limit - 10], items[-10:]
    return separator.join([*head, f"... {len(items) - limit} more ...", *tail])
