"""The list form of a text with images, `[{"image": path}, {"text": ...}, {"box": ..., "ref": ...}]`, and its text form.

Follows `from_list_format` and `to_list_format` of the original `tokenization_qwen.py`. Plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindformers_qwenvl.text.limits import normalised
from mindformers_qwenvl.text.tags import Tags, box_text, picture_text, ref_text, tag_pairs
from mindformers_qwenvl.text.vocabulary import ENDOFTEXT, TEXT_SPECIALS

__all__ = ["from_list_format", "restore_image_paths", "to_list_format"]


def from_list_format(elements: Sequence[dict[str, Any]], tags: Tags | None = None) -> str:
    """Text of a list of elements, each one of

    - `{"image": path}`: `Picture N: <img>path</img>` and a newline, N counting the images;
    - `{"text": text}`: the text as it is;
    - `{"box": [[x1, y1, x2, y2], ...]}`, with `"ref": name` if the boxes belong to something: numbers from 0 to 999,
      fractions cut off.

    Raises:
        ValueError: an element has another form; the message names it.
    """
    text, pictures = [], 0
    for number, element in enumerate(elements):
        if not isinstance(element, dict) or not element.keys() & {"image", "text", "box"}:
            raise ValueError(f"element {number}: expected a dict with the key image, text or box, got {element!r}")
        if "image" in element:
            pictures += 1
            text.append(picture_text(pictures, _text(element, "image", number), tags))
        elif "text" in element:
            text.append(_text(element, "text", number))
        else:
            if "ref" in element:
                text.append(ref_text(_text(element, "ref", number), tags))
            try:
                boxes = [tuple(int(value) for value in box) for box in element["box"]]
            except (TypeError, ValueError, OverflowError):
                boxes = [()]
            if any(len(box) != 4 for box in boxes):
                raise ValueError(f"element {number}: box takes a list of [x1, y1, x2, y2], got {element['box']!r}")
            text += (box_text(box, tags) for box in boxes)
    return "".join(text)


def _text(element: dict[str, Any], key: str, number: int) -> str:
    if not isinstance(element[key], str):
        raise ValueError(f"element {number}: {key} must be a string, got {element[key]!r}")
    return element[key]


def to_list_format(text: str, tags: Tags | None = None) -> list[dict[str, str]]:
    """Elements of `text` (after NFC) in order, each a dict of one key: text, image, ref, box or quad, with the string
    between its tags. Tags inside a pair are not looked at; a lone end tag is text.

    Raises:
        ValueError: a tag is not closed, the text contains a special token of chats such as `<|im_start|>`, or it is
            beyond the bounds of limits.py.
    """
    text = normalised(text)
    for special in TEXT_SPECIALS:
        if special != ENDOFTEXT and special in text:
            raise ValueError(f"the text contains the special token {special}, which has no list form: {text[:80]!r}")
    elements, position = [], 0
    for pair in tag_pairs(text, tags, across_starts=True):
        if pair.content is None:
            raise ValueError(
                f"unclosed {pair.kind} tag at character {pair.start}: {text[pair.start : pair.start + 80]!r}"
            )
        if pair.start > position:
            elements.append({"text": text[position : pair.start]})
        elements.append({pair.kind: pair.content})
        position = pair.stop
    if position < len(text):
        elements.append({"text": text[position:]})
    return elements


def restore_image_paths(text: str, images: Sequence[str], tags: Tags | None = None) -> str:
    """Write the paths back into a decoded text, in which an image reads `<img></img>`: the first empty pair gets
    `images[0]`, and so on. Pairs with a path keep it; empty pairs beyond `images` (a model may write some) stay empty.
    """
    tags = tags or Tags()
    pieces = text.split(tags.image_start + tags.image_end)
    paths = [*images, *[""] * len(pieces)]
    output = [pieces[0]]
    for path, piece in zip(paths, pieces[1:], strict=False):
        output.append(f"{tags.image_start}{path}{tags.image_end}{piece}")
    return "".join(output)
