"""Boxes and quads in the text of an answer, and back.

`<ref>the cat</ref><box>(100,200),(499,799)</box>`: several boxes may follow one ref, and a box may stand without one.
Follows `to_list_format` and `_fetch_all_box_with_ref` of the original `tokenization_qwen.py`. Those stop at the first
mistake in a text. Models make mistakes, so here they are skipped and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mindformers_qwenvl.grounding.boxes import Box, Quad, Span
from mindformers_qwenvl.text.tags import Tags, box_text, quad_text, ref_text, tag_pairs

__all__ = ["Found", "Problem", "parse", "to_text"]

NUMBER = re.compile(r"[+-]?\d{1,9}")


@dataclass(frozen=True)
class Problem:
    """A piece of text that is not a valid box or quad: its `span`, its `text`, and the `reason`."""

    span: Span
    text: str
    reason: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"{self.text[:60]}..."
        return f"characters {self.span[0]} to {self.span[1]}, {shown!r}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """The result of `parse`: `objects` in order, and the `problems` it skipped."""

    objects: tuple[Box | Quad, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes among the objects."""
        return tuple(found for found in self.objects if isinstance(found, Box))

    @property
    def quads(self) -> tuple[Quad, ...]:
        """The quads among the objects."""
        return tuple(found for found in self.objects if isinstance(found, Quad))


def parse(text: str, tags: Tags | None = None) -> Found:
    """The boxes and quads in `text`, with their labels.

    - A label is the stripped text of a `<ref>`. It belongs to the boxes and quads right after it, with nothing but
      white space between; all but the first of them have `continues`. (The original gives it only to the first.)
    - Coordinates below 0 or above 999 are moved to the edge of the grid; `clipped` is then set.
    - Corners in the wrong order are swapped; `reordered` is then set.
    - Invalid ones are skipped and reported: too few or too many numbers, numbers that are not whole, unclosed tags.
    """
    objects: list[Box | Quad] = []
    problems: list[Problem] = []
    label: str | None = None
    continues, position = False, 0
    for pair in tag_pairs(text, tags):
        start, stop = span = pair.start, pair.stop
        if text[position:start].strip():
            label, continues = None, False
        position = stop
        if pair.kind == "image":
            label, continues = None, False
            continue
        if pair.content is None:
            problems.append(Problem(span, text[start:stop], f"the {pair.kind} tag is not closed"))
            label, continues = None, False
            continue
        if pair.kind == "ref":
            label, continues = pair.content.strip(), False
            continue
        numbers = _numbers(pair.content)
        count = 4 if pair.kind == "box" else 8
        if numbers is None or len(numbers) != count:
            reason = f"a {pair.kind} takes {count} whole numbers, (x,y) {'twice' if count == 4 else 'four times'}"
            problems.append(Problem(span, text[start:stop], reason))
            continue
        make = Box.of if pair.kind == "box" else Quad.of
        objects.append(make(numbers, label, continues, span))
        continues = label is not None
    return Found(tuple(objects), tuple(problems))


def _numbers(content: str) -> list[int] | None:
    """The numbers of `(1,2),(3,4)`. Like the original, it ignores where the brackets are."""
    parts = [part.strip() for part in content.replace("(", "").replace(")", "").split(",")]
    return [int(part) for part in parts] if all(NUMBER.fullmatch(part) for part in parts) else None


def to_text(objects: Iterable[Box | Quad], tags: Tags | None = None) -> str:
    """The text of boxes and quads; `parse` gives the same objects from it.

    Raises:
        ValueError: a label contains one of the tags.
    """
    tags = tags or Tags()
    pieces: list[str] = []
    label: str | None = None
    for found in objects:
        if found.label is None:
            if label is not None:
                pieces.append(",")  # without a separator it would belong to the ref before
        elif found.label != label or not found.continues:
            if any(tag in found.label for tag in tags):
                raise ValueError(f"a label must not hold tags, got {found.label!r}")
            pieces.append(ref_text(found.label, tags))
        label = found.label
        pieces.append(box_text(found.coordinates, tags) if isinstance(found, Box) else quad_text(found.points, tags))
    return "".join(pieces)
