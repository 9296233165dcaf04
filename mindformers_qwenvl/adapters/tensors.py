"""Names of an adapter's tensors: peft's, and those of MindFormers' own LoRA. Pure Python."""

from __future__ import annotations

import re
from typing import NamedTuple

from mindformers_qwenvl.weights.names import is_training_state, to_original

__all__ = ["PREFIX", "Factor", "TensorName", "adapter_names", "factor_of", "parse_name", "peft_name"]

PREFIX = "base_model.model."
A, B, MAGNITUDE, SAVED = "lora_A", "lora_B", "lora_magnitude_vector", "modules_to_save"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
# What peft's state dict calls them, with or without the adapter's name ("default") and `.weight`.
_LORA = re.compile(
    rf"(?P<module>.+?)\.(?P<kind>{EMBEDDING_A}|{EMBEDDING_B}|{A}|{B}|{MAGNITUDE})"
    r"(?:\.(?P<adapter>(?!weight$)[^.]+))?(?:\.weight)?"
)
_SAVED = re.compile(r"(?P<module>.+?)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<rest>weight|bias)")
# MindFormers' LoRA (mindpet): our parameter's name with these endings.
_MINDPET = re.compile(r"(?P<module>.+?)\.mindpet_delta_lora_(?P<kind>[ab])")


# This network's own, see layers.py: `low` is A's product, which wq, wk and wv share.
_OURS = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[ab])\.weight")


class Factor(NamedTuple):
    """A or B of the original's `module`, for part `index` of `of` equal parts of its rows; an A with `of` 1 belongs to
    all parts."""

    module: str
    kind: str
    index: int = 0
    of: int = 1


class TensorName(NamedTuple):
    """What a tensor belongs to. `module`: full name in the original, such as transformer.h.0.attn.c_attn; for `SAVED`,
    the tensor's full name. `adapter`: the adapter's name in peft, if there is one."""

    module: str
    kind: str
    adapter: str | None = None


def parse_name(name: str) -> TensorName:
    """What peft's tensor `name` stands for; a name without LoRA's words is taken as one of a module saved whole."""
    plain = name
    while plain.startswith(PREFIX):
        plain = plain.removeprefix(PREFIX)
    if match := _LORA.fullmatch(plain):
        return TensorName(match["module"], match["kind"], match["adapter"])
    if match := _SAVED.fullmatch(plain):
        return TensorName(f"{match['module']}.{match['rest']}", SAVED, match["adapter"])
    return TensorName(plain, SAVED)


def peft_name(module: str, kind: str) -> str:
    """The name under which peft saves A or B of a module, or with `SAVED` the tensor called `module`."""
    return f"{PREFIX}{module}" if kind == SAVED else f"{PREFIX}{module}.{kind}.weight"


def factor_of(name: str) -> Factor | None:
    """The factor that the parameter `name`, of this network or of MindFormers' own LoRA, holds; None if it holds none.

    Raises:
        ValueError: it is a factor of a layer that this network does not have.
    """
    if is_training_state(name):  # the moments of a factor are named after it
        return None
    if match := _MINDPET.fullmatch(name):
        part = to_original(f"{match['module']}.weight")
        return Factor(module_of(part.name), A if match["kind"] == "a" else B, part.index, part.of)
    match = _OURS.fullmatch(name)
    if match is None:
        return None
    layer = match["module"]
    if match["kind"] == "a" and layer.endswith(".attention"):  # one for wq, wk and wv
        return Factor(module_of(to_original(f"{layer}.wq.weight").name), A)
    part = to_original(f"{layer}.weight")
    if match["kind"] == "a":
        return Factor(module_of(part.name), A)
    return Factor(module_of(part.name), B, part.index, part.of)


def module_of(tensor: str) -> str:
    """The module of a weight: transformer.h.0.attn.c_attn for transformer.h.0.attn.c_attn.weight,
    attn_pool.attn.in_proj for ...in_proj_weight; empty for a bias and for other tensors."""
    return re.sub(r"[._]weight$", "", tensor) if tensor.endswith("weight") else ""


def adapter_names(names: list[TensorName]) -> set[str]:
    return {name.adapter for name in names if name.adapter}
