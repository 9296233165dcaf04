"""What the configurations of all parts ask of their sizes and of `parallel_config`."""

from __future__ import annotations

from typing import Any

from mindformers.modules.transformer import TransformerOpParallelConfig

__all__ = ["as_parallel_config", "require_divisible", "require_split", "require_square"]


def as_parallel_config(given: Any) -> TransformerOpParallelConfig:
    return TransformerOpParallelConfig(**given) if isinstance(given, dict) else given


def require_divisible(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name}={value} must be divisible by {by} ({by_name})")


def require_split(parallel: Any, **sizes: int) -> None:
    """Every size can be cut into equal parts for the model-parallel cards."""
    cards = getattr(parallel, "model_parallel", 1)
    wrong = [f"{name}={size}" for name, size in sizes.items() if size % cards]
    if wrong:
        raise ValueError(
            f"parallel_config.model_parallel={cards} cards cannot share {', '.join(wrong)} evenly; choose a "
            f"model_parallel that divides {'it' if len(wrong) == 1 else 'each of them'}"
        )


def require_square(name: str, value: int) -> None:
    if round(value**0.5) ** 2 != value:
        raise ValueError(f"{name}={value} must be a square number: the queries stand on a square grid")
