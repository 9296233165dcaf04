"""What one worker of a sharded job found when it compiled."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Compiled", "DoesNotCompile"]


@dataclass
class Compiled:
    """layouts: parameter -> devices, map (axis of `devices` from the right that cuts a dimension, -1: none) and slice,
    the shape one card holds. strategies: operator -> cuts of each input. without: operators that had none. whole: cells
    in a form that is for graphs without sharding."""

    layouts: dict[str, dict]
    strategies: dict[str, list]
    shapes: dict[str, list[int]]
    whole: list[str]
    memory: int
    without: list[str]

    def slices(self, parameter: str) -> tuple[int, ...]:
        """How many pieces each dimension of a parameter is cut into."""
        piece = self.layouts[parameter]["slice"]
        return tuple(whole // part for whole, part in zip(self.shapes[parameter], piece, strict=True))


class DoesNotCompile(AssertionError):
    pass
