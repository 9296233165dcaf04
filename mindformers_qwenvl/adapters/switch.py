"""Adapters are loaded into a network by name, and switched without compiling it again.

The layers are built once (`pet_config`), with room for the largest rank; an adapter is a set of numbers for them. A
smaller one is padded with zeros, which is exact, and B is multiplied by the ratio of its scale to that of the layers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindspore import Parameter, Tensor

from mindformers_qwenvl.adapters.network import low_rank_parameters, network_shapes
from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.settings import AdapterSettings, from_pet_config
from mindformers_qwenvl.adapters.tensors import A, B
from mindformers_qwenvl.weights.finite import FiniteCheck
from mindformers_qwenvl.weights.names import to_ours

__all__ = ["AdapterSwitch", "named", "room_for"]

Adapters = str | os.PathLike | Mapping[str, Any]


def named(adapters: Adapters) -> dict[str, str]:
    """Name -> directory; a single directory is called `default`.

    Raises:
        ValueError: no directory is given.
    """
    if isinstance(adapters, Mapping):
        found = {str(name): str(path) for name, path in adapters.items()}
    else:
        found = {"default": str(adapters)}
    if not found or not all(found.values()):
        raise ValueError(f"adapter: expected a directory, or names with a directory each, got {adapters!r}")
    return found


def room_for(adapters: Adapters, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The pet_config of a network that can hold any of `adapters`, one at a time.

    Args:
        shapes: of the base model's tensors, under the original's names.

    Raises:
        FileNotFoundError, ValueError: see `Adapter`; or one of them can only be merged.
    """
    ranks: dict[str, int] = {}
    for path in named(adapters).values():
        with Adapter(path, shapes) as adapter:
            _refuse_unmerged(adapter)
            for module, target in adapter.targets.items():
                ranks[module] = max(ranks.get(module, 0), target.rank)
    return {
        "pet_type": "lora",
        "lora_rank": max(ranks.values(), default=1),
        "lora_alpha": max(ranks.values(), default=1),  # a scale of 1
        "lora_dropout": 0.0,
        "target_modules": list(ranks),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }


def _refuse_unmerged(adapter: Adapter) -> None:
    what = None
    if adapter.settings.dora:
        what = "DoRA's magnitudes"
    elif any(target.embedding for target in adapter.targets.values()):
        what = "an adapter of the embedding"
    elif any(module.endswith("attn_pool.attn.in_proj") for module in adapter.targets):
        what = "an adapter of the resampler's in_proj"
    if what:
        raise ValueError(
            f"{adapter.path} has {what}, which can only be merged into the weights: run `mindformers-qwenvl "
            f"convert-weight --input_path BASE --adapter {adapter.path} --output_path MERGED`, and load MERGED"
        )


@dataclass
class _Loaded:
    """The numbers of an adapter, by the names of our parameters."""

    factors: dict[str, np.ndarray]
    saved: dict[str, np.ndarray]


@dataclass
class _State:
    loaded: dict[str, _Loaded] = field(default_factory=dict)
    base: dict[str, np.ndarray] = field(default_factory=dict)  # tensors that an adapter's modules_to_save replaces
    active: str | None = None


def _not_finite(path: Any, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """A warning of NaN and infinity in an adapter; empty if there is none."""
    check = FiniteCheck()
    for name, array in arrays.items():
        check.look(name, array)
    return [f"{path}: {check.sentence()}"] if check.numbers else []


class AdapterSwitch:
    """A base class for networks: loads adapters under names, and switches between them.

    Their parameters are inputs of the compiled graph, so a switch only copies their numbers.
    """

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded."""
        return tuple(self._adapter_state().loaded)

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter that is in use; None: the base model alone."""
        return self._adapter_state().active

    def _adapter_state(self) -> _State:
        state = self.__dict__.get("_adapters_loaded")
        if state is None:
            state = self.__dict__["_adapters_loaded"] = _State()
        return state

    def load_adapter(
        self, path: str | os.PathLike, name: str = "default", active: bool = True, training: bool = False
    ) -> list[str]:
        """Load the adapter in the directory `path` as `name`; with `active`, use it from now on.

        `training`: to train it further. Its layers, ranks and scales must then be those of the network.

        Returns:
            Warnings for the user, in words; they are also logged.

        Raises:
            FileNotFoundError, ValueError: see `Adapter`; or the network has no layers for it, or of too low a rank.
        """
        with Adapter(path, network_shapes(self)) as adapter:
            _refuse_unmerged(adapter)
            settings = self._room(adapter, training)
            loaded = _Loaded(self._factors(adapter, settings), {})
            for tensor in adapter.saved:
                parts = to_ours(tensor)
                numbers = adapter.read_saved(tensor)
                loaded.saved |= dict(zip(parts, np.split(numbers, len(parts)), strict=True))
            warnings = [*adapter.warnings, *_not_finite(path, {**loaded.factors, **loaded.saved})]
        state, parameters = self._adapter_state(), self._by_name()
        for warning in warnings:
            logger.warning("%s", warning)
        if training:  # nobody will switch back: no copy is kept
            for values in (loaded.factors, loaded.saved):
                for tensor, numbers in values.items():
                    _set(parameters[tensor], numbers)
            return warnings
        if state.active == name:
            self.set_adapter(None)
        for tensor in loaded.saved:
            if tensor not in state.base:
                state.base[tensor] = _numbers(parameters[tensor])
        state.loaded[name] = loaded
        if active:
            self.set_adapter(name)
        return warnings

    def load_configured_adapters(self) -> None:
        """Load the adapters that the configuration's `adapter` names, once; the first one is used."""
        given = getattr(self.config, "adapter", None)
        if given and not self.adapter_names:
            names = named(given)
            for name, path in names.items():
                self.load_adapter(path, name, active=False)
            self.set_adapter(next(iter(names)))

    def set_adapter(self, name: str | None) -> None:
        """Use the adapter `name` from now on; None: the base model alone.

        Raises:
            ValueError: no adapter of that name is loaded.
        """
        state = self._adapter_state()
        if name is not None and name not in state.loaded:
            have = ", ".join(state.loaded) or "none"
            raise ValueError(f"no adapter {name!r} is loaded; loaded are: {have}")
        parameters = self._by_name()
        chosen = state.loaded[name] if name is not None else _Loaded({}, {})
        for factor, parameter in low_rank_parameters(self).items():
            if parameter.name in chosen.factors:
                _set(parameter, chosen.factors[parameter.name])
            elif factor.kind == B:
                _set(parameter, np.zeros(parameter.shape, np.float32))
        for tensor in state.base:
            _set(parameters[tensor], chosen.saved.get(tensor, state.base[tensor]))
        state.active = name

    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.get_parameters()}

    def _room(self, adapter: Adapter, training: bool) -> AdapterSettings:
        """The settings of the network's layers; raises ValueError if the adapter does not fit them."""
        settings = from_pet_config(self.config.pet_config or {})
        ranks: dict[str, int] = {}
        for factor, parameter in low_rank_parameters(self).items():
            if factor.kind == A:
                ranks[factor.module] = parameter.shape[0]
        short = [
            f"{module} (rank {target.rank}, the network has {ranks.get(module, 'none')})"
            for module, target in adapter.targets.items()
            if target.rank > ranks.get(module, 0)
        ]
        if short:
            raise ValueError(
                f"{adapter.path}: the network has no room for {', '.join(short[:5])}"
                f"{', ...' if len(short) > 5 else ''}; build it with all its adapters: QwenVL.from_pretrained(BASE, "
                "adapter={'name': DIR, ...})"
            )
        if training:
            unlike = [
                f"{module}: rank {target.rank} and scale {target.scale:g} in {adapter.path}, {rank} and "
                f"{settings.scale(module):g} in the YAML"
                for module, rank in ranks.items()
                if (target := adapter.targets.get(module))
                and (target.rank, target.scale) != (rank, settings.scale(module))
            ]
            unlike += [f"{module}: none in {adapter.path}" for module in ranks if module not in adapter.targets]
            if unlike:
                raise ValueError(
                    f"adapter: pet_config does not match the layers of {adapter.path}; leave pet_config out to use "
                    f"the adapter's own, or change it: {'; '.join(unlike[:3])}{'; ...' if len(unlike) > 3 else ''}"
                )
        return settings

    def _factors(self, adapter: Adapter, settings: AdapterSettings) -> dict[str, np.ndarray]:
        found, last = {}, (None, None, None)
        for factor, parameter in low_rank_parameters(self).items():
            if factor.module not in adapter.targets:
                continue
            if last[0] != factor.module:
                last = (factor.module, *adapter.factors(factor.module))
            _, a, b = last
            values = np.zeros(parameter.shape, np.float32)
            if factor.kind == A:
                values[: len(a)] = a
            else:
                rows = parameter.shape[0]
                scale = adapter.targets[factor.module].scale / settings.scale(factor.module)
                values[:, : b.shape[1]] = b[factor.index * rows : (factor.index + 1) * rows] * np.float32(scale)
            found[parameter.name] = values
        return found


def _set(parameter: Parameter, numbers: np.ndarray) -> None:
    parameter.set_data(Tensor(numbers.reshape(parameter.shape), parameter.dtype))


def _numbers(parameter: Parameter) -> np.ndarray:
    return parameter.astype(ms.float32).asnumpy().copy()
