"""Qwen-VL for MindFormers. Importing this package costs nothing: public names load on first use (PEP 562)."""

from __future__ import annotations

import importlib

__version__ = "0.2.0"

_PUBLIC = {
    "QwenConfig": "config",
    "QwenVLConfig": "config",
    "QwenVLVisionConfig": "config",
    "QwenVL": "model.qwenvl",
    "QwenVLVisionModel": "model.vision",
    "QwenForCausalLM": "model.language",
    "QwenVLTokenizer": "data.tokenizer",
    "QwenVLContentTransformTemplate": "data.template",
    "QwenVLProcessor": "data.processor",
    "QwenVLImageProcessor": "data.image_processor",
    "QwenVLDataLoader": "datasets.loader",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name in _PUBLIC:
        try:
            module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        except ModuleNotFoundError as error:
            if error.name in ("mindformers", "mindspore"):
                from mindformers_qwenvl.versions import require_host

                require_host()  # says what is missing and how to install it
            raise
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
