"""The keys for adapters in a YAML that MindFormers runs: `model_config.pet_config` and `adapter:`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers import pet
from mindformers.tools.register import MindFormerConfig
from mindformers.tools.register.config import DictConfig

from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.settings import AdapterSettings, as_pet_config
from mindformers_qwenvl.adapters.switch import AdapterSwitch, named, room_for
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.config.original import original_sizes
from mindformers_qwenvl.host.replacements import Replacements
from mindformers_qwenvl.weights.shapes import original_shapes

__all__ = ["prepare_adapters", "use_own_adapters"]

MONITOR = "QwenVLAdapterMonitor"


def use_own_adapters() -> None:
    """Leave `pet_config` in the YAML of a Qwen-VL to the network, which makes its own adapters.

    Host: mindformers/models/build_model.py, build_network. It wraps the network in mindpet's LoRA, which matches local
    cell names (the resampler's, too), has separate factors for q, k and v, and writes a format that nothing else reads.
    Seen in 1.9. Can go when the host does not wrap networks that have adapters of their own.
    """

    def replacement(stock: Callable) -> Callable:
        def get_pet_model(base_model: Any, config: Any) -> Any:
            return base_model if isinstance(base_model, AdapterSwitch) else stock(base_model, config)

        return get_pet_model

    replacements = Replacements()
    replacements.add(pet, "get_pet_model", replacement)  # build_network imports it from there at each call
    replacements.apply()


def prepare_adapters(config: MindFormerConfig) -> None:
    """Change the trainer's `config` as its keys `adapter:` and `pet_config` ask for.

    In training, `adapter:` is the directory to begin with, and the monitor that writes adapters is added to the
    callbacks. In prediction, it is a directory, or several names with a directory each: the first adapter answers.

    Raises:
        FileNotFoundError, ValueError: there is no such adapter, or it does not fit the model.
    """
    model = (config.get("model") or {}).get("model_config")
    if model is None or model.get("type") != "QwenVLConfig":
        return
    training = config.get("run_mode") not in ("predict", "eval")
    adapters = named(config.adapter) if config.get("adapter") else {}
    if training and len(adapters) > 1:
        raise ValueError(f"adapter: a training can begin with only one adapter, got {', '.join(adapters)}")
    for path in adapters.values():
        if not Path(path).exists():
            raise FileNotFoundError(f"adapter: {path} does not exist; expected the directory of an adapter")
    if adapters and not model.get("pet_config"):
        built = QwenVLConfig(**_without_type(model))
        shapes = original_shapes(original_sizes(built.vision, built.llm))
        model.pet_config = DictConfig(**(_of(*adapters.values(), shapes) if training else room_for(adapters, shapes)))
    if not training:
        model.adapter = adapters or None
        return
    callbacks = config.get("callbacks") or []
    if model.get("pet_config") and not any(callback.get("type") == MONITOR for callback in callbacks):
        monitor = {
            "type": MONITOR,
            "adapter": next(iter(adapters.values()), None),
            "base": config.get("load_checkpoint") or None,
            "resumed": bool(config.get("resume_training")),
        }
        config.callbacks = [*callbacks, MindFormerConfig(**monitor)]


def _without_type(model: Any) -> dict[str, Any]:
    left_out = ("type", "checkpoint_name_or_path", "parallel_config", "adapter")
    return {key: value for key, value in model.items() if key not in left_out}


def _of(path: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The pet_config that continues the training of an adapter: its own settings, and its targets by their tensors."""
    with Adapter(path, shapes) as adapter:
        return as_pet_config(AdapterSettings(**{**vars(adapter.settings), "targets": tuple(adapter.targets)}))
