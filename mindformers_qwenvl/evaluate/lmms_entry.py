"""The entry point `lmms_eval.models`: tells lmms-eval where its class is. Only lmms-eval imports this."""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL", "manifest"]

MODEL = "qwen_vl_mindformers"


def manifest() -> Any:
    """What lmms-eval 0.7 asks an entry point for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, simple_class_path=f"{__package__}.lmms_model.QwenVLMindFormers")
