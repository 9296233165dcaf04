"""Adapters in a network: which layers get one, what is trained then, and where each of their parameters belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mindformers.models.utils import convert_mstype
from mindspore import Parameter, nn

from mindformers_qwenvl.adapters.layers import Dense, add_low_rank, add_shared_low_rank
from mindformers_qwenvl.adapters.settings import AdapterSettings, from_pet_config, is_saved, matches
from mindformers_qwenvl.adapters.tensors import Factor, factor_of
from mindformers_qwenvl.weights.names import to_original
from mindformers_qwenvl.weights.shapes import listed

__all__ = ["add_adapters", "freeze_base", "low_rank_parameters", "network_shapes"]


def add_adapters(cell: nn.Cell, name: str, config: Any) -> None:
    """Add adapters to the layers in `cell` that config.lora names; `QwenVLConfig.make_room` sets it.

    Args:
        cell: a part of the network that is already built, but not yet part of its parent.
        name: the name it will have in `QwenVL`.
    """
    lora = getattr(config, "lora", None)
    if not lora:
        return
    settings = from_pet_config(lora)
    dtype = convert_mstype(lora.get("param_init_type") or "float32")

    def arguments(module: str) -> tuple[int, float, float, Any]:
        return settings.rank_of(module), settings.scale(module), settings.dropout, dtype

    for path, layer in [("", cell), *cell.cells_and_names()]:
        if not isinstance(layer, Dense) or layer.adapted:
            continue
        full = f"{name}.{path}" if path else name
        part = to_original(f"{full}.weight")
        module = part.name.removesuffix(".weight")
        if part.name.endswith("in_proj_weight") or not matches(module, settings.targets):
            continue  # MultiheadAttention's own parameter is not a module in the original: no target names it
        if part.of == 1:
            add_low_rank(layer, *arguments(module))
        elif part.index == 0:
            owner = _owner(cell, path)
            add_shared_low_rank(owner, (owner.wq, owner.wk, owner.wv), *arguments(module))


def _owner(cell: nn.Cell, path: str) -> nn.Cell:
    return dict(cell.cells_and_names())[path.rpartition(".")[0]]


def low_rank_parameters(network: nn.Cell) -> dict[Factor, Parameter]:
    """`Factor` -> the parameter that holds it, for all adapters of the network."""
    found = {}
    for parameter in network.get_parameters():
        if factor := factor_of(parameter.name):
            found[factor] = parameter
    return found


def freeze_base(network: nn.Cell, settings: AdapterSettings) -> None:
    """Freeze everything except the adapters and what `modules_to_save` names.

    Raises:
        ValueError: a name of target_modules or modules_to_save matches nothing; the message lists the possible names.
    """
    adapted, saved = set(), set()
    for parameter in network.get_parameters():
        if factor := factor_of(parameter.name):
            adapted.add(factor.module)
            continue
        tensor = _original(parameter.name)
        learns = tensor is not None and is_saved(tensor, settings.modules_to_save)
        if learns:
            saved.add(tensor)
        # The resampler's table of positions is never trained.
        parameter.requires_grad = learns and not parameter.name.endswith("attn_pool.pos_embed")
    _check_matched("target_modules", settings.targets, adapted, _layers(network))
    tensors = {name for name in map(_original, (p.name for p in network.get_parameters())) if name}
    modules = {name.rpartition(".")[0] for name in tensors}
    for end in settings.modules_to_save:
        if not any(is_saved(tensor, (end,)) for tensor in saved):
            raise ValueError(f"pet_config: modules_to_save: {end!r} matches no module; modules are {_ends(modules)}")


def _original(name: str) -> str | None:
    try:
        return to_original(name).name
    except ValueError:  # the cache, or a factor
        return None


def _layers(network: nn.Cell) -> set[str]:
    """Full names of all layers that could have an adapter."""
    found = set()
    for name, cell in network.cells_and_names():
        if isinstance(cell, Dense) and not (tensor := to_original(f"{name}.weight").name).endswith("in_proj_weight"):
            found.add(tensor.removesuffix(".weight"))
    return found


def _check_matched(key: str, wanted: tuple[str, ...] | str, found: Iterable[str], there: set[str]) -> None:
    missed = [wanted] if isinstance(wanted, str) else list(wanted)
    missed = [
        end
        for end in missed
        if not any(matches(module, wanted if isinstance(wanted, str) else (end,)) for module in found)
    ]
    if missed:
        raise ValueError(
            f"pet_config: {key}: {listed([repr(end) for end in missed])} matches no layer. A list holds "
            "ends of the original's names; a single string is a regular expression for the whole name. The layers are "
            f"{_ends(there)}"
        )


def _ends(modules: Iterable[str]) -> str:
    """The names with their layer numbers as N, each once."""
    return listed(sorted({re.sub(r"\.\d+\.", ".N.", module) for module in modules}))


def network_shapes(network: nn.Cell) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the original's tensors, from the network's parameters."""
    shapes: dict[str, tuple[int, ...]] = {}
    for parameter in network.get_parameters():
        if factor_of(parameter.name) is None and _original(parameter.name) is not None:
            part = to_original(parameter.name)
            rows, *rest = parameter.shape
            shapes[part.name] = (rows * part.of, *rest)
    return shapes
