"""`Box` and `Quad` on Qwen-VL's grid, to pixels and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mindformers_qwenvl.checks import is_whole

__all__ = ["GRID", "Box", "Point", "Quad", "Span", "iou"]

# Coordinates are thousandths of the picture's width and height, 0 to 999 from the left and from the top.
GRID = 1000

Point: TypeAlias = "tuple[int, int]"
Span: TypeAlias = "tuple[int, int]"


@dataclass(frozen=True)
class Box:
    """A rectangle on the grid: `x1 <= x2` and `y1 <= y2`, whole numbers from 0 to 999.

    label: what it shows (the text of its `<ref>`), or None.
    continues: it shares the `<ref>` of the box before it.
    span: its place in the text it was read from, half-open; None if it was not read from a text.
    clipped, reordered: whether numbers off the grid were moved to its edge, and corners in the wrong order swapped.
    The last three are ignored when boxes are compared.
    """

    x1: int
    y1: int
    x2: int
    y2: int
    label: str | None = None
    continues: bool = False
    span: Span | None = field(default=None, compare=False)
    clipped: bool = field(default=False, compare=False)
    reordered: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        _check_grid(self.coordinates)
        if self.x1 > self.x2 or self.y1 > self.y2:
            raise ValueError(f"a box must have x1 <= x2 and y1 <= y2, got {self.coordinates}; Box.of sorts them")

    @classmethod
    def of(
        cls,
        numbers: Sequence[int],
        label: str | None = None,
        continues: bool = False,
        span: Span | None = None,
    ) -> Box:
        """A box from any four whole numbers x1, y1, x2, y2: they are clipped to the grid and put in order."""
        x1, y1, x2, y2 = inside = [_clip(number) for number in numbers]
        x1, x2 = sorted((x1, x2))
        y1, y2 = sorted((y1, y2))
        clipped = inside != list(numbers)
        reordered = numbers[0] > numbers[2] or numbers[1] > numbers[3]
        return cls(x1, y1, x2, y2, label, continues, span, clipped, reordered)

    @classmethod
    def from_pixels(cls, box: Sequence[float], width: int, height: int, label: str | None = None) -> Box:
        """The box of pixels `x1, y1, x2, y2` in a picture of `width` x `height`, rounded to the grid."""
        x1, y1, x2, y2 = box
        return cls.of((*_to_grid((x1, y1), width, height), *_to_grid((x2, y2), width, height)), label)

    @property
    def coordinates(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 on the grid."""
        return (self.x1, self.y1, self.x2, self.y2)

    def to_pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in a picture of `width` x `height`, rounded down as in the original."""
        return (*_to_pixels((self.x1, self.y1), width, height), *_to_pixels((self.x2, self.y2), width, height))


@dataclass(frozen=True)
class Quad:
    """Four corners on the grid in the order they were given, whole numbers from 0 to 999; for the rest see `Box`."""

    points: tuple[Point, Point, Point, Point]
    label: str | None = None
    continues: bool = False
    span: Span | None = field(default=None, compare=False)
    clipped: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.points) != 4 or any(len(point) != 2 for point in self.points):
            raise ValueError(f"a quad has four corners (x, y), got {self.points}")
        _check_grid([number for point in self.points for number in point])

    @classmethod
    def of(
        cls,
        numbers: Sequence[int],
        label: str | None = None,
        continues: bool = False,
        span: Span | None = None,
    ) -> Quad:
        """A quad from any eight whole numbers x1, y1, ..., x4, y4, clipped to the grid."""
        inside = [_clip(number) for number in numbers]
        points = tuple(zip(inside[::2], inside[1::2], strict=True))
        return cls(points, label, continues, span, inside != list(numbers))

    @classmethod
    def from_pixels(cls, points: Sequence[Sequence[float]], width: int, height: int, label: str | None = None) -> Quad:
        """The quad of four corners (x, y) in pixels of a picture of `width` x `height`, rounded to the grid."""
        return cls.of([number for point in points for number in _to_grid(point, width, height)], label)

    def to_pixels(self, width: int, height: int) -> tuple[Point, Point, Point, Point]:
        """The corners in a picture of `width` x `height`, rounded down."""
        return tuple(_to_pixels(point, width, height) for point in self.points)

    @property
    def bounds(self) -> Box:
        """The smallest box around it."""
        xs, ys = zip(*self.points, strict=True)
        return Box(min(xs), min(ys), max(xs), max(ys), self.label, self.continues, self.span, self.clipped)


def iou(a: Box | Sequence[float], b: Box | Sequence[float]) -> float:
    """Intersection over union: the area that two boxes share / the area they cover together; 0 for boxes without area.

    Each is a `Box`, or x1, y1, x2, y2 in any one unit with x1 <= x2 and y1 <= y2.
    """
    ax1, ay1, ax2, ay2 = a.coordinates if isinstance(a, Box) else a
    bx1, by1, bx2, by2 = b.coordinates if isinstance(b, Box) else b
    shared = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    covered = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / covered if covered > 0 else 0.0


def _check_grid(numbers: Sequence[int]) -> None:
    for number in numbers:
        if not is_whole(number, 0, GRID - 1):
            raise ValueError(f"coordinates must be whole numbers from 0 to {GRID - 1}, got {list(numbers)}")


def _clip(number: int) -> int:
    return min(max(number, 0), GRID - 1)


def _to_grid(point: Sequence[float], width: int, height: int) -> tuple[int, int]:
    if width <= 0 or height <= 0:
        raise ValueError(f"width and height of a picture must be above 0, got {width}x{height}")
    x, y = (round(number * GRID / size) for number, size in zip(point, (width, height), strict=True))
    # The right and lower edges of the picture are at 1000, just off the grid; moving them to 999 is not clipping.
    return (GRID - 1 if x == GRID else x), (GRID - 1 if y == GRID else y)


def _to_pixels(point: Point, width: int, height: int) -> Point:
    if width <= 0 or height <= 0:
        raise ValueError(f"width and height of a picture must be above 0, got {width}x{height}")
    return int(point[0] / GRID * width), int(point[1] / GRID * height)
