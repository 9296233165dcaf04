"""Configuration of Qwen-VL: the YAML keys of the old in-tree version, and the original config.json.

The classes are MindFormers configurations and are imported on first use, so that `config.original`
needs no MindFormers.

- `qwenvl`, `vision`, `language`: the classes, of the whole network, the vision tower and the language model.
- `sizes`: published sizes, what must divide what, layers on pipeline stages; `parallel`: `parallel_config`.
- `original`: the original's directory and its config.json, translated to our keys.
- `keys`, `folder`, `yaml_keys`: keys that are not arguments, settings of a folder that are not followed, misspelt keys.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindformers_qwenvl.config.language import QwenConfig
    from mindformers_qwenvl.config.qwenvl import QwenVLConfig
    from mindformers_qwenvl.config.vision import QwenVLVisionConfig

__all__ = ["QwenConfig", "QwenVLConfig", "QwenVLVisionConfig"]

_MODULES = {"QwenConfig": "language", "QwenVLConfig": "qwenvl", "QwenVLVisionConfig": "vision"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
