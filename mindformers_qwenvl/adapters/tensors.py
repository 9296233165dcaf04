"""Names of an adapter's tensors: peft's, and those of MindFormers' own LoRA. Pure Python."""

from __future__ import annotations

import re
from typing import NamedTuple

from mindformers_qwenvl.weights.names import to_original

__all__ = ["PREFIX", "TensorName", "adapter_names", "is_adapter_tensor", "parse_mindpet", "parse_name", "peft_name"]

PREFIX = "base_model.model."
A, B, MAGNITUDE, SAVED = "lora_A", "lora_B", "lora_magnitude_vector", "modules_to_save"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
# What peft's state dict calls them, with or without the adapter's name ("default") and `.weight`.
_LORA = re.compile(
    rf"(?P<module>.+?)\.(?P<kind>{EMBEDDING_A}|{EMBEDDING_B}|{A}|{B}|{MAGNITUDE})"
    r"(?:\.(?P<adapter>(?!weight$)[^.]+))?(?:\.weight)?"
)
_SAVED = re.compile(r"(?P<module>.+?)\.modules_to_save(?:\.(?P<adapter>[^.]+))?\.(?P<rest>weight|bias)")
# MindFormers' LoRA (mindpet): our parameter's name with these ends.
_MINDPET = re.compile(r"(?P<module>.+?)\.mindpet_delta_lora_(?P<kind>[ab])")


class TensorName(NamedTuple):
    """What a tensor is of. `module`: full name in the original, such as transformer.h.0.attn.c_attn; of a `SAVED` one,
    the tensor's whole name. `adapter`: its name in peft, where one is given."""

    module: str
    kind: str
    adapter: str | None = None


def parse_name(name: str) -> TensorName:
    """What peft's tensor `name` stands for; a name without a word of LoRA is taken for that of a module saved whole."""
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


def parse_mindpet(name: str) -> tuple[str, int, int, str] | None:
    """(module of the original, part, parts, A or B) of a tensor of MindFormers' LoRA; None for any other name.

    Raises:
        ValueError: it is one, of a parameter that this network does not have.
    """
    match = _MINDPET.fullmatch(name)
    if match is None:
        return None
    part = to_original(f"{match['module']}.weight")
    return re.sub(r"[._]weight$", "", part.name), part.index, part.of, A if match["kind"] == "a" else B


def is_adapter_tensor(name: str) -> bool:
    """Whether `name` is of a low-rank factor, in peft's names, MindFormers' or this network's."""
    return ".lora." in name or ".mindpet_delta_lora_" in name or _LORA.fullmatch(name) is not None


def adapter_names(names: list[TensorName]) -> set[str]:
    return {name.adapter for name in names if name.adapter}
