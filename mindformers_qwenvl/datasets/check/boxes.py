"""Boxes and quads of a dataset: those that the model would learn wrongly, and how they were meant.

The model knows `<box>(x1,y1),(x2,y2)</box>` and `<quad>` with four such points: whole numbers from 0 to 999, the upper
left corner of a box first. Training reads anything else too, and learns it. Plain Python; time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mindformers_qwenvl.grounding.boxes import GRID, Box
from mindformers_qwenvl.text.tags import TagPair, Tags, box_text, quad_text, tag_pairs

__all__ = ["BOX_FAULTS", "FOREIGN", "BoxFault", "box_faults", "fixed_boxes"]

OFF_GRID = "box off the grid"
FRACTIONS = "box not of whole numbers"
REVERSED = "box corners out of order"
SEVERAL = "several boxes in one tag"
COUNT = "box of a wrong number of numbers"
SPELLING = "box in a spelling the model has not seen"
FOREIGN = "tags of another model"
BOX_FAULTS = (OFF_GRID, FRACTIONS, REVERSED, SEVERAL, COUNT, SPELLING, FOREIGN)

MOST_CHARACTERS = 4000  # of the numbers in one tag; a quad has fewer than 60
SHOWN = 80
FULL_WIDTH = str.maketrans("（），、【】［］．０１２３４５６７８９", "(),,[][].0123456789")
NUMBER = re.compile(r"[+-]?\d{1,9}(?:\.\d{1,20})?")
AROUND = re.compile(r"[\s,;()\[\]]*")
SPELLED = {"box": r"\s*\(\s*\d+\s*,\s*\d+\s*\)\s*,\s*\(\s*\d+\s*,\s*\d+\s*\)\s*"}
SPELLED["quad"] = rf"{SPELLED['box']},{SPELLED['box']}"
SPELLED = {kind: re.compile(pattern, re.ASCII) for kind, pattern in SPELLED.items()}
NUMBERS = {"box": 4, "quad": 8}
FOREIGN_TAGS = re.compile(r"<\|(?:object_ref|box|quad)_(?:start|end)\|>")


@dataclass(frozen=True)
class BoxFault:
    """One tag pair, or one kind of foreign tag, that the model would learn wrongly.

    kind: one of BOX_FAULTS. start, stop: its place in the text, half-open. fixed: what was meant, if that is certain.
    """

    kind: str
    detail: str
    start: int
    stop: int
    fixed: str | None = None


def box_faults(text: str, tags: Tags | None = None) -> list[BoxFault]:
    """The faults of the boxes and quads in `text`, in order. Unclosed tags are not reported."""
    tags = tags or Tags()
    faults = list(_foreign(text, tags)) if "<|" in text else []
    if tags.box_start in text or tags.quad_start in text:
        for pair in tag_pairs(text, tags):
            if pair.kind in NUMBERS and pair.content is not None and (fault := _fault(text, pair, tags)):
                faults.append(fault)
    return faults


def fixed_boxes(text: str, tags: Tags | None = None) -> tuple[str, int]:
    """(`text` with the faults corrected whose meaning is certain, how many). A text without any is returned as is.

    Certain are: another spelling of the brackets and commas; corners out of order; fractions from 0 to 1; the far edge
    given as 1000; several boxes in one tag, each with its corners in order; the tags of Qwen2-VL.
    """
    # Foreign tags first: what is between them is then a box like any other.
    text, count = _replaced(text, [fault for fault in box_faults(text, tags) if fault.kind == FOREIGN])
    text, more = _replaced(text, [fault for fault in box_faults(text, tags) if fault.kind != FOREIGN])
    return text, count + more


def _replaced(text: str, faults: list[BoxFault]) -> tuple[str, int]:
    pieces, position, count = [], 0, 0
    for fault in faults:
        if fault.fixed is not None:
            pieces += [text[position : fault.start], fault.fixed]
            position, count = fault.stop, count + 1
    return "".join([*pieces, text[position:]]), count


def _foreign(text: str, tags: Tags) -> Iterator[BoxFault]:
    for match in FOREIGN_TAGS.finditer(text):
        name = match.group()[2:-2].replace("object_", "")
        yield BoxFault(FOREIGN, match.group(), match.start(), match.end(), getattr(tags, name))


def _fault(text: str, pair: TagPair, tags: Tags) -> BoxFault | None:
    wanted = NUMBERS[pair.kind]
    shown = text[pair.start : pair.stop]
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."

    def fault(kind: str, reason: str, fixed: str | None = None) -> BoxFault:
        return BoxFault(kind, f"{shown}: {reason}", pair.start, pair.stop, fixed)

    content = pair.content or ""
    plain = content.translate(FULL_WIDTH)
    numbers = _numbers(plain)
    if numbers is None:
        return fault(SPELLING, f"{_form(pair.kind)} is expected")
    if pair.kind == "box" and len(numbers) > wanted and len(numbers) % wanted == 0:
        boxes = [numbers[at : at + wanted] for at in range(0, len(numbers), wanted)]
        safe = all(_on_grid(box) and box[0] < box[2] and box[1] < box[3] for box in boxes)
        fixed = "".join(box_text([int(number) for number in box], tags) for box in boxes) if safe else None
        return fault(SEVERAL, f"{len(boxes)} boxes, or a quad; each box needs its own tags", fixed)
    if len(numbers) != wanted:
        return fault(COUNT, f"{len(numbers)} numbers, a {pair.kind} has {wanted}")
    if not all(number.is_integer() for number in numbers):
        inside = all(0 <= number <= 1 for number in numbers)
        fixed = _written(pair.kind, [min(round(number * GRID), GRID - 1) for number in numbers], tags)
        return fault(FRACTIONS, f"thousandths are expected, 0 to {GRID - 1}", fixed if inside else None)
    whole = [int(number) for number in numbers]
    if not _on_grid(numbers):
        edge = all(0 <= number <= GRID for number in whole)
        fixed = _written(pair.kind, [min(number, GRID - 1) for number in whole], tags) if edge else None
        return fault(OFF_GRID, f"coordinates go from 0 to {GRID - 1}; are these pixels?", fixed)
    if pair.kind == "box" and (whole[0] > whole[2] or whole[1] > whole[3]):
        return fault(REVERSED, "the upper left corner must come first", _written(pair.kind, whole, tags))
    if not SPELLED[pair.kind].fullmatch(content):
        return fault(SPELLING, f"{_form(pair.kind)} is expected", _written(pair.kind, whole, tags))
    return None


def _numbers(content: str) -> list[float] | None:
    """The numbers between brackets, commas and white space; None if there is anything else, or no number."""
    if len(content) > MOST_CHARACTERS or AROUND.fullmatch(NUMBER.sub("", content)) is None:
        return None
    return [float(number) for number in NUMBER.findall(content)] or None


def _on_grid(numbers: list[float]) -> bool:
    return all(number.is_integer() and 0 <= number < GRID for number in numbers)


def _form(kind: str) -> str:
    return box_text((1, 2, 3, 4)) if kind == "box" else quad_text(((1, 2), (3, 4), (5, 6), (7, 8)))


def _written(kind: str, numbers: list[int], tags: Tags) -> str:
    if kind == "box":
        return box_text(Box.of(numbers).coordinates, tags)
    return quad_text(list(zip(numbers[::2], numbers[1::2], strict=True)), tags)
