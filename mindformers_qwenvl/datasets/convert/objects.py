"""The `objects` of ms-swift: names and boxes that fill the placeholders `<ref-object>` and `<bbox>` of a record.

Version 3: `{"ref": ["a dog"], "bbox": [[x1, y1, x2, y2]], "bbox_type": "real", "image_id": [0]}`. Version 2: a list, or
the JSON text of a list, of `{"caption": "a dog", "bbox": [x1, y1, x2, y2], "bbox_type": "real", "image": 0}`, in which
`bbox` may be a list of boxes. Boxes are in pixels of the original picture ("real"), fractions of its sides ("norm1") or
thousandths ("norm1000"); both forms count pictures from 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mindformers_qwenvl.checks import is_number, is_whole
from mindformers_qwenvl.datasets.convert.foreign import OBJECT_PLACES
from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from mindformers_qwenvl.grounding.boxes import GRID, Box
from mindformers_qwenvl.text.tags import box_text, ref_text

__all__ = ["fill_objects"]

UNITS = {"norm1": (1, 1), "norm_1": (1, 1), "norm1000": (GRID, GRID), "norm_1000": (GRID, GRID)}
TOLERANCE = 10 / GRID  # as for boxes: rounding may put a box slightly outside its picture
Boxes = tuple[Sequence[Any], Any, Any]  # boxes of one placeholder, their unit, the number of their picture


def fill_objects(
    record: dict[str, Any], turns: Sequence[dict[str, Any]], sizes: Callable[[int], Any], report: ConversionReport
) -> None:
    """Write `<ref>` and `<box>` for the placeholders in `turns`, and take `objects` out of `record`.

    Args:
        record, turns: the record, and its turns with the key `value`.
        sizes: gives (width, height) of a picture of the record by its number.
        report: counts records whose objects no placeholder uses.

    Raises:
        UnusableError: names or boxes are missing, left over or malformed.
    """
    objects = record.pop("objects", None)
    if not objects:
        return
    refs, boxes = _parsed(objects)
    wanted = [match for turn in turns for match in OBJECT_PLACES.findall(turn["value"])]
    if not wanted:
        report.notes["records with `objects` that no <ref-object> or <bbox> uses"] += 1
        return
    for place, what, held in (("<ref-object>", "names", len(refs)), ("<bbox>", "boxes", len(boxes))):
        if wanted.count(place) not in ({held} if place == "<bbox>" else {held, 0}):
            raise UnusableError("objects", f"{held} {what} for {wanted.count(place)} {place}")
    texts = {
        "<ref-object>": iter([_name(ref) for ref in refs]),
        "<bbox>": iter([_text(*several, sizes) for several in boxes]),
    }
    for turn in turns:
        turn["value"] = OBJECT_PLACES.sub(lambda match: next(texts[match.group()]), turn["value"])


def _parsed(objects: Any) -> tuple[list[Any], list[Boxes]]:
    """(names, boxes) of either form, in the order of their placeholders."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError) as error:
            raise UnusableError("objects", f"`objects` is a text, but not JSON: {error}") from None
    if isinstance(objects, list):
        if not all(isinstance(one, dict) and "bbox" in one for one in objects):
            raise UnusableError("objects", f"expected objects with a `bbox`: {str(objects)[:80]!r}")
        refs = [one.get("caption", one.get("ref")) for one in objects]
        return refs, [(_several(one["bbox"]), one.get("bbox_type", "real"), one.get("image", 0)) for one in objects]
    if not isinstance(objects, dict):
        raise UnusableError("objects", f"expected an object with `ref` and `bbox`: {str(objects)[:80]!r}")
    refs, boxes = objects.get("ref") or [], objects.get("bbox") or []
    pictures = objects.get("image_id")
    pictures = [0] * len(boxes) if pictures is None else pictures
    if not all(isinstance(part, list) for part in (refs, boxes, pictures)) or len(pictures) != len(boxes):
        raise UnusableError("objects", f"expected lists `ref`, `bbox` and `image_id`: {str(objects)[:80]!r}")
    unit = objects.get("bbox_type") or "real"
    return refs, [([box], unit, picture) for box, picture in zip(boxes, pictures, strict=True)]


def _several(boxes: Any) -> Sequence[Any]:
    return boxes if isinstance(boxes, list) and boxes and isinstance(boxes[0], list) else [boxes]


def _name(ref: Any) -> str:
    if not isinstance(ref, str) or not ref.strip() or "<" in ref or ">" in ref:
        raise UnusableError("objects", f"{ref!r} cannot be the name of an object")
    return ref_text(ref)


def _text(boxes: Sequence[Any], unit: Any, picture: Any, sizes: Callable[[int], Any]) -> str:
    if unit == "real":
        if not is_whole(picture, 0):
            raise UnusableError("objects", f"{picture!r} is not the number of a picture")
        width, height = sizes(picture)
    elif unit in UNITS:
        width, height = UNITS[unit]
    else:
        raise UnusableError("objects", f"bbox_type {unit!r} is not one of real, {', '.join(UNITS)}")
    return "".join(box_text(_box(box, width, height).coordinates) for box in boxes)


def _box(numbers: Any, width: float, height: float) -> Box:
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(is_number, numbers)):
        raise UnusableError("objects", f"a box takes four numbers x1, y1, x2, y2, got {str(numbers)[:80]}")
    x1, y1, x2, y2 = (float(number) for number in numbers)
    if x2 <= x1 or y2 <= y1:
        raise UnusableError("objects", f"a box without width or height: {numbers}")
    if min(x1 / width, y1 / height) < -TOLERANCE or max(x2 / width, y2 / height) > 1 + TOLERANCE:
        raise UnusableError("objects", f"the box {numbers} is outside its picture of {width}x{height}")
    return Box.from_pixels((x1, y1, x2, y2), width, height)
