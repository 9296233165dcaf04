"""Boxes in answers: read them, scale them, compare them, draw them. Plain Python and Pillow.

found = parse(answer)                   # <ref>the cat</ref><box>(100,200),(499,799)</box>
for box in found.boxes:
    print(box.label, box.to_pixels(*image.size))
draw(image, found.objects).save("boxes.png")

- `parse`, `boxes`: the text of an answer to `Box` and `Quad`, and these to pixels; and back.
- `draw`: boxes with their labels on a picture.
- `labels`, `fonts`: where labels go and how large they are, and a font that has their characters.
"""

from __future__ import annotations

from mindformers_qwenvl.grounding.boxes import GRID, Box, Quad, iou
from mindformers_qwenvl.grounding.draw import draw, draw_on_latest_picture, latest_picture
from mindformers_qwenvl.grounding.fonts import FONT_VARIABLE, FontWarning
from mindformers_qwenvl.grounding.parse import Found, Problem, parse, to_text

__all__ = [
    "FONT_VARIABLE",
    "GRID",
    "Box",
    "FontWarning",
    "Found",
    "Problem",
    "Quad",
    "draw",
    "draw_on_latest_picture",
    "iou",
    "latest_picture",
    "parse",
    "to_text",
]
