"""Boxes with their labels on a picture, and on the last picture of a conversation.

Follows `draw_bbox_on_latest_picture` and its `Visualizer` in the original `tokenization_qwen.py`, with Pillow in the
place of matplotlib and colours taken in turn, not by chance, so that a drawing can be made again.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from mindformers_qwenvl.grounding.boxes import Box, Quad
from mindformers_qwenvl.grounding.fonts import font_for, visible
from mindformers_qwenvl.grounding.parse import parse
from mindformers_qwenvl.pictures.images import ImagePolicy, open_image
from mindformers_qwenvl.text.tags import Tags, tag_pairs

__all__ = ["COLOURS", "draw", "draw_on_latest_picture", "latest_picture"]

logger = logging.getLogger(__name__)

# The ten of the Tableau palette, as the original has them.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
SMALLEST_TEXT = 15  # pixels
LABEL_BACKGROUND = (0, 0, 0, 204)  # black, four fifths opaque


def draw(
    image: Image.Image,
    objects: Iterable[Box | Quad],
    *,
    font: str | os.PathLike[str] | None = None,
    colours: Sequence[str] = COLOURS,
) -> Image.Image:
    """A copy of `image` (RGB) with the outlines of boxes and quads, and their labels.

    Those that share a ref have one colour, and the label stands at the first of them, at its upper left corner; every
    other one takes the next colour.

    Args:
        image: the picture the boxes belong to, of any size.
        objects: what `parse` found.
        font: a font file for the labels; None: see `fonts.font_for`, which also says what warning there may be.
        colours: taken in turn, as Pillow names them.

    Raises:
        FileNotFoundError, ValueError: the font cannot be used.
    """
    objects = list(objects)
    canvas = image.convert("RGB")
    size = max(int(math.sqrt(canvas.width * canvas.height)) // 30, SMALLEST_TEXT)
    pen = ImageDraw.Draw(canvas)
    labels: list[tuple[str, tuple[int, int], str]] = []
    number = -1
    for found in objects:
        if not (found.continues and number >= 0):
            number += 1
            if label := visible(found.label or "").strip():
                labels.append((label, _corner(found, canvas), colours[number % len(colours)]))
        _outline(pen, found, canvas, colours[number % len(colours)], max(size // 4, 1))
    if not labels:
        return canvas
    typeface = font_for("".join(label for label, _, _ in labels), size, font)
    for label, corner, colour in labels:  # above all outlines
        _write(canvas, label, corner, colour, typeface)
    return canvas


def _corner(found: Box | Quad, canvas: Image.Image) -> tuple[int, int]:
    box = found if isinstance(found, Box) else found.bounds
    return box.to_pixels(*canvas.size)[:2]


def _outline(pen: ImageDraw.ImageDraw, found: Box | Quad, canvas: Image.Image, colour: str, width: int) -> None:
    if isinstance(found, Box):
        pen.rectangle(found.to_pixels(*canvas.size), outline=colour, width=width)
    else:
        corners = found.to_pixels(*canvas.size)
        pen.line([*corners, *corners[:2]], fill=colour, width=width, joint="curve")


def _write(canvas: Image.Image, label: str, corner: tuple[int, int], colour: str, font: ImageFont.FreeTypeFont) -> None:
    """`label` on a dark ground, its upper left at `corner`, moved and folded so that it is on the picture."""
    pad = 2
    pen = ImageDraw.Draw(canvas)
    text = _fold(label, canvas.width - 2 * pad, font)
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=font)
    width, height = math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad
    x = max(0, min(corner[0], canvas.width - width))
    y = max(0, min(corner[1], canvas.height - height))
    layer = Image.new("RGBA", (width, height), LABEL_BACKGROUND)
    pen = ImageDraw.Draw(layer)
    pen.multiline_text((pad - left, pad - top), text, fill=_bright(colour), font=font)
    canvas.paste(layer.convert("RGB"), (x, y), layer.getchannel("A"))


def _fold(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """`text` in lines of at most `width` pixels; at spaces where there are some, else between any two characters."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        while font.getlength(line) > width and len(line) > 1:
            fits = next((n for n in range(len(line) - 1, 1, -1) if font.getlength(line[:n]) <= width), 1)
            space = line.rfind(" ", 1, fits + 1)
            at = space if space > 0 else fits
            lines.append(line[:at].rstrip())
            line = line[at:].lstrip()
        lines.append(line)
    return "\n".join(lines)


def _bright(colour: str) -> tuple[int, int, int]:
    """The colour, bright enough for a dark ground: no channel below a fifth, the largest not below four fifths."""
    channels = [max(value, 51) for value in ImageColor.getrgb(colour)[:3]]
    largest = channels.index(max(channels))
    channels[largest] = max(channels[largest], 204)
    return tuple(channels)


def latest_picture(response: Any, history: Sequence[Sequence[Any]] | None = None, tags: Tags | None = None) -> Any:
    """The last image of a conversation: of `response`, else of what was asked last, and so on backwards; None: there is
    none. Answers in the history are not looked into.

    Args:
        response: a text or a list of elements, `[{"image": ...}, {"text": ...}]`.
        history: exchanges (query, answer), oldest first; a query is a text or a list of elements.
        tags: spelling of the tags in texts.
    """
    for query in [response, *(exchange[0] for exchange in reversed(history or ()))]:
        if isinstance(query, str):
            images = [pair.content for pair in tag_pairs(query, tags) if pair.kind == "image" and pair.content]
        else:
            images = [element["image"] for element in query or () if "image" in element]
        if images:
            return images[-1]
    return None


def draw_on_latest_picture(
    response: str,
    history: Sequence[Sequence[Any]] | None = None,
    *,
    tags: Tags | None = None,
    font: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    policy: ImagePolicy | None = None,
    exif_rotation: bool = False,
) -> Image.Image | None:
    """The last picture of a conversation (see `latest_picture`) with the boxes of `response` drawn on it; None if there
    is no picture, or no box. What is no box is left out, and logged.

    Args:
        response: the answer.
        history: exchanges (query, answer), oldest first.
        tags: spelling of the tags.
        font: see `draw`.
        root, policy, exif_rotation: as `images.open_image` takes them; the rotation as the model saw the picture.

    Raises:
        FileNotFoundError, ImageError: the picture cannot be opened; names it and says why.
    """
    found = parse(response, tags)
    for problem in found.problems:
        logger.warning("no box, left out: %s", problem)
    picture = latest_picture(response, history, tags) if found.objects else None
    if picture is None:
        return None
    image = open_image(picture, root=root, policy=policy, exif_rotation=exif_rotation)
    return draw(image, found.objects, font=font)
