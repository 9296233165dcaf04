"""Boxes with their labels on a picture, and on the last picture of a conversation.

Follows `draw_bbox_on_latest_picture` and its `Visualizer` in the original `tokenization_qwen.py`, with Pillow instead
of matplotlib, and with colours taken in turn instead of at random, so that a drawing can be repeated.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageColor, ImageDraw

from mindformers_qwenvl.grounding.boxes import Box, Quad
from mindformers_qwenvl.grounding.fonts import visible
from mindformers_qwenvl.grounding.labels import Label, place, text_size
from mindformers_qwenvl.grounding.parse import parse
from mindformers_qwenvl.pictures.images import ImagePolicy, open_image
from mindformers_qwenvl.text.tags import Tags, tag_pairs

__all__ = ["COLOURS", "draw", "draw_on_latest_picture", "latest_picture"]

logger = logging.getLogger(__name__)

# The ten of the Tableau palette, as in the original.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
LABEL_BACKGROUND = (0, 0, 0, 204)  # black, four fifths opaque


def draw(
    image: Image.Image,
    objects: Iterable[Box | Quad],
    *,
    font: str | os.PathLike[str] | None = None,
    colours: Sequence[str] = COLOURS,
) -> Image.Image:
    """A copy of `image` (RGB) with the outlines of boxes and quads, and their labels.

    Objects that share a `<ref>` have one colour and one label; every other object takes the next colour. A label is in
    the upper left corner of the first object of its ref. It is beside that object if it would otherwise hide more than
    half of it, or another label. On small pictures labels get smaller letters, down to 8 pixels, and are cut with "…":
    all together hide no more than half of the picture. A label that still cannot be read is left out and logged.

    Args:
        image: the picture that the boxes belong to, of any size.
        objects: what `parse` found.
        font: a font file for the labels; None: see `fonts.font_for`, which may warn.
        colours: names of colours that Pillow knows, taken in turn.

    Raises:
        FileNotFoundError, ValueError: the font cannot be used.
    """
    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    width = max(min(text_size(canvas.size) // 4, min(canvas.size) // 20), 1)
    wanted: list[tuple[str, tuple[int, int, int, int], str]] = []
    number = -1
    for found in objects:
        if not (found.continues and number >= 0):
            number += 1
            if text := visible(found.label or "").strip():
                box = found if isinstance(found, Box) else found.bounds
                wanted.append((text, box.to_pixels(*canvas.size), colours[number % len(colours)]))
        _outline(pen, found, canvas, colours[number % len(colours)], width)
    labels = place([(text, box) for text, box, _ in wanted], canvas.size, font)
    for label, (text, _, colour) in zip(labels, wanted, strict=True):  # above all outlines
        if label is None:
            logger.warning("the picture of %dx%d pixels is too small for the label %r", *canvas.size, text)
        else:
            _write(canvas, label, colour)
    return canvas


def _outline(pen: ImageDraw.ImageDraw, found: Box | Quad, canvas: Image.Image, colour: str, width: int) -> None:
    if isinstance(found, Box):
        pen.rectangle(found.to_pixels(*canvas.size), outline=colour, width=width)
    else:
        corners = found.to_pixels(*canvas.size)
        pen.line([*corners, *corners[:2]], fill=colour, width=width, joint="curve")


def _write(canvas: Image.Image, label: Label, colour: str) -> None:
    layer = Image.new("RGBA", label.size, LABEL_BACKGROUND)
    ImageDraw.Draw(layer).multiline_text(label.start, label.text, fill=_bright(colour), font=label.font)
    canvas.paste(layer.convert("RGB"), label.corner, layer.getchannel("A"))


def _bright(colour: str) -> tuple[int, int, int]:
    """The colour, bright enough for a dark background: each channel at least a fifth, the largest four fifths."""
    channels = [max(value, 51) for value in ImageColor.getrgb(colour)[:3]]
    largest = channels.index(max(channels))
    channels[largest] = max(channels[largest], 204)
    return tuple(channels)


def latest_picture(response: Any, history: Sequence[Sequence[Any]] | None = None, tags: Tags | None = None) -> Any:
    """The last image of a conversation, or None: that of the last query, or else of the latest one that has an image.

    With a history, image tags in answers are ignored. Without one, `response` is a whole text with its prompt, as a
    base model continues it, and the picture is the last in it.

    Args:
        response: a text or a list of elements, `[{"image": ...}, {"text": ...}]`; not used if there is a history.
        history: exchanges (query, answer), oldest first; a query is a text or a list of elements.
        tags: spelling of the tags in texts.
    """
    for query in [exchange[0] for exchange in reversed(history)] if history else [response]:
        elements = [{"text": query}] if isinstance(query, str) else query or ()
        images = [image for element in elements for image in _images(element, tags)]
        if images:
            return images[-1]
    return None


def _images(element: Mapping[str, Any], tags: Tags | None) -> list[Any]:
    """The images of an element of a query: its own, or those in the tags of its text."""
    if "image" in element:
        return [element["image"]]
    text = element.get("text")
    pairs = tag_pairs(text, tags) if isinstance(text, str) else ()
    return [pair.content for pair in pairs if pair.kind == "image" and pair.content]


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
    """The last picture of a conversation (see `latest_picture`) with the boxes of `response` drawn on it.

    None if there is no picture or no box. Malformed boxes are left out and logged.

    Args:
        response: the answer.
        history: exchanges (query, answer), oldest first.
        tags: spelling of the tags.
        font: see `draw`.
        root, policy, exif_rotation: see `images.open_image`; the rotation must be the one the model saw.

    Raises:
        FileNotFoundError, ImageError: the picture cannot be opened; the message names it and says why.
    """
    found = parse(response, tags)
    for problem in found.problems:
        logger.warning("not a box, left out: %s", problem)
    picture = latest_picture(response, history, tags) if found.objects else None
    if picture is None:
        return None
    image = open_image(picture, root=root, policy=policy, exif_rotation=exif_rotation)
    return draw(image, found.objects, font=font)
