"""Configuration of Qwen-VL: the YAML keys of the old in-tree version, and the original config.json."""

from __future__ import annotations

from mindformers_qwenvl.config.language import QwenConfig
from mindformers_qwenvl.config.qwenvl import QwenVLConfig
from mindformers_qwenvl.config.vision import QwenVLVisionConfig

__all__ = ["QwenConfig", "QwenVLConfig", "QwenVLVisionConfig"]
