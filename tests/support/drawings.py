"""White pictures to draw on, and the place of a label on them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def white(width: int = 200, height: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def label_area(drawn: Image.Image) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the dark ground of a label on a white picture, half-open, but for the outline (3 pixels wide)
    that shines through."""
    dark = np.argwhere((np.asarray(drawn) == 51).all(axis=2))  # black, four fifths opaque
    (y1, x1), (y2, x2) = dark.min(axis=0), dark.max(axis=0)
    return int(x1), int(y1), int(x2) + 1, int(y2) + 1
