"""`parallel_config` of a configuration."""

from __future__ import annotations

from typing import Any

from mindformers.modules.transformer import TransformerOpParallelConfig

__all__ = ["as_parallel_config"]


def as_parallel_config(given: Any) -> TransformerOpParallelConfig:
    """A section of a YAML as MindFormers' object; such an object is returned as it is."""
    return TransformerOpParallelConfig(**given) if isinstance(given, dict) else given
