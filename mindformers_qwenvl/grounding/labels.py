"""Places and sizes of labels on a picture: they must be readable and hide little of it. Pillow."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from mindformers_qwenvl.grounding.fonts import font_for

__all__ = ["Label", "place", "text_size"]

Rectangle: TypeAlias = "tuple[int, int, int, int]"  # x1, y1, x2, y2 in pixels, half-open

TEXT_SIZE = 15  # pixels, on pictures of up to 450 x 450; larger ones have larger letters
SMALLEST_TEXT = 8
PADDING = 2
HIDDEN_BY_ONE, HIDDEN_BY_ALL = 1 / 4, 1 / 2  # largest share of the picture that labels may hide
CUT = "…"
# Limits of what a picture can show: more would not be seen and only take time.
MOST_LETTERS = 200  # in one label
MOST_LABELS = 200


@dataclass(frozen=True)
class Label:
    """A placed label: its rectangle of `size` (width, height) at `corner`, and its text, in lines, which is drawn at
    `start` within the rectangle."""

    text: str
    font: ImageFont.FreeTypeFont
    corner: tuple[int, int]
    size: tuple[int, int]
    start: tuple[float, float]


def text_size(size: tuple[int, int]) -> int:
    """Height of the letters in pixels, on a picture of `size` (width, height) with enough room for them."""
    return max(int(math.sqrt(size[0] * size[1])) // 30, TEXT_SIZE)


def place(
    wanted: Sequence[tuple[str, Rectangle]], size: tuple[int, int], font: str | os.PathLike[str] | None = None
) -> list[Label | None]:
    """A label for each (text, box in pixels) on a picture of `size` (width, height); None where it cannot be read.

    Texts are cut after MOST_LETTERS letters. Only the first MOST_LABELS texts get a label.

    Raises:
        FileNotFoundError, ValueError: the font cannot be used.
    """
    if not wanted:
        return []
    if len(wanted) > MOST_LABELS:
        return place(wanted[:MOST_LABELS], size, font) + [None] * (len(wanted) - MOST_LABELS)
    wanted = [(text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + CUT, box) for text, box in wanted]
    width, height = size
    budget = width * height * min(HIDDEN_BY_ONE, HIDDEN_BY_ALL / len(wanted))
    letters = "".join(text for text, _ in wanted)
    for pixels in range(text_size(size), SMALLEST_TEXT - 1, -1):
        typeface = font_for(letters, pixels, font)
        texts = []
        for text, _ in wanted:  # one that does not fit ends the attempt: the others need not be measured
            texts.append(_fold(text, width - 2 * PADDING, typeface))
            if not _fits(texts[-1], typeface, size, budget):
                break
        else:
            break
    else:
        texts = [_shortened(_fold(text, width - 2 * PADDING, typeface), typeface, size, budget) for text, _ in wanted]
    placed: list[Rectangle] = []
    labels: list[Label | None] = []
    for text, (_, box) in zip(texts, wanted, strict=True):
        labels.append(_placed(text, typeface, box, size, placed) if text else None)
    return labels


def _extent(text: str, font: ImageFont.FreeTypeFont) -> tuple[tuple[int, int], tuple[float, float]]:
    """Width and height of a label in pixels, and where its text starts in it."""
    pen = ImageDraw.Draw(Image.new("1", (1, 1)))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=font)
    size = math.ceil(right - left) + 2 * PADDING, math.ceil(bottom - top) + 2 * PADDING
    return size, (PADDING - left, PADDING - top)


def _fits(text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], budget: float) -> bool:
    (width, height), _ = _extent(text, font)
    return width <= size[0] and height <= size[1] and width * height <= budget


def _shortened(text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], budget: float) -> str:
    """`text`, cut so that it fits; "" if not even its first three letters do."""
    if _fits(text, font, size, budget):
        return text
    lines = text.split("\n")
    for count in range(len(lines), 0, -1):
        kept = "\n".join(lines[:count])
        first = len(kept) - len(lines[count - 1]) + 1
        if first > len(kept) or not _fits(kept[:first].rstrip() + CUT, font, size, budget):
            continue
        lengths = range(first, len(kept) + 1)  # shorter ones fit if a longer one does
        longest = bisect_right(
            lengths, 0, key=lambda length, kept=kept: not _fits(kept[:length].rstrip() + CUT, font, size, budget)
        )
        cut = kept[: lengths[longest - 1]].rstrip() + CUT
        if len(cut) > 3:
            return cut
    return ""


def _placed(
    text: str, font: ImageFont.FreeTypeFont, box: Rectangle, size: tuple[int, int], placed: list[Rectangle]
) -> Label:
    """The label at the first of several places where it hides no other label; if there is none, at the first place."""
    (width, height), start = _extent(text, font)
    x1, y1, x2, y2 = box
    inside, beside = [(x1, y1), (x2 - width, y1)], [(x1, y1 - height), (x1, y2 + 1)]
    hides_the_box = width * height > (x2 - x1) * (y2 - y1) / 2
    places = []
    for x, y in [*beside, *inside] if hides_the_box else [*inside, *beside]:
        left, top = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        if top == y or (x, y) in inside:  # one beside the box must not be moved onto it
            places.append((left, top, left + width, top + height))
    rectangle = next((one for one in places if not any(_overlap(one, other) for other in placed)), places[0])
    placed.append(rectangle)
    return Label(text, font, rectangle[:2], (width, height), start)


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _fold(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """`text` in lines of at most `width` pixels, broken at spaces if there are any, else between characters."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        while font.getlength(line) > width and len(line) > 1:
            lengths = range(1, len(line))
            fits = max(bisect_right(lengths, width, key=lambda n, line=line: font.getlength(line[:n])), 1)
            space = line.rfind(" ", 1, fits + 1)
            at = space if space > 0 else fits
            lines.append(line[:at].rstrip())
            line = line[at:].lstrip()
        lines.append(line)
    return "\n".join(lines)
