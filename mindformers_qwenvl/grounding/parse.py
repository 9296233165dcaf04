"""Boxes and quads in the text of an answer, and back.

`<ref>the cat</ref><box>(100,200),(499,799)</box>`; several boxes may follow one ref, and a box may have none. Follows
`to_list_format` and `_fetch_all_box_with_ref` of the original `tokenization_qwen.py`, which stop at the first mistake
in a text; a model makes some, so here they are skipped and reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mindformers_qwenvl.grounding.boxes import Box, Quad, Span
from mindformers_qwenvl.text.vocabulary import Tags

__all__ = ["Found", "Problem", "parse", "tagged", "to_text"]

NUMBER = re.compile(r"[+-]?\d{1,9}")


@dataclass(frozen=True)
class Problem:
    """A piece of text that is no box: `span` and `text` of it, and why."""

    span: Span
    text: str
    reason: str

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 60 else f"{self.text[:60]}..."
        return f"characters {self.span[0]} to {self.span[1]}, {shown!r}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """What `parse` found: `objects` in order, and the `problems` it skipped."""

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


@dataclass(frozen=True)
class Tagged:
    """A tag pair in a text: `kind` (image, ref, box, quad), what is between the tags (None: never closed), and the
    whole's place."""

    kind: str
    content: str | None
    span: Span


def tagged(text: str, tags: Tags | None = None) -> Iterator[Tagged]:
    """The tag pairs of `text` in order. A pair whose end tag comes only after another start tag, or never, is not
    closed; the other one is read all the same. What stands between image tags is not looked into."""
    tags = tags or Tags()
    kinds = {
        tags.image_start: ("image", tags.image_end),
        tags.ref_start: ("ref", tags.ref_end),
        tags.box_start: ("box", tags.box_end),
        tags.quad_start: ("quad", tags.quad_end),
    }
    starts = re.compile("|".join(map(re.escape, kinds)))
    begin = starts.search(text)
    while begin:
        kind, end_tag = kinds[begin.group()]
        following = starts.search(text, begin.end())
        limit = following.start() if following and kind != "image" else len(text)
        end = text.find(end_tag, begin.end(), limit)
        if end < 0:
            yield Tagged(kind, None, (begin.start(), following.start() if following else len(text)))
            begin = following
        else:
            stop = end + len(end_tag)
            yield Tagged(kind, text[begin.end() : end], (begin.start(), stop))
            begin = starts.search(text, stop)


def parse(text: str, tags: Tags | None = None) -> Found:
    """Boxes and quads of `text`, with the labels they belong to.

    - A label is the stripped text of a `<ref>`. It belongs to the boxes and quads right behind it, with nothing but
      white space between; of those, all but the first have `continues`. (The original gives it to the first alone.)
    - Coordinates below 0 or above 999 are moved to the edge of the grid, which `clipped` says.
    - Corners the wrong way round are exchanged, which `reordered` says.
    - What is no box is skipped and reported: too few or too many numbers, no whole numbers, tags that do not close.
    """
    objects: list[Box | Quad] = []
    problems: list[Problem] = []
    label: str | None = None
    continues, position = False, 0
    for pair in tagged(text, tags):
        start, stop = pair.span
        if text[position:start].strip():
            label, continues = None, False
        position = stop
        if pair.kind == "image":
            label, continues = None, False
            continue
        if pair.content is None:
            problems.append(Problem(pair.span, text[start:stop], f"the {pair.kind} tag is not closed"))
            label, continues = None, False
            continue
        if pair.kind == "ref":
            label, continues = pair.content.strip(), False
            continue
        numbers = _numbers(pair.content)
        count = 4 if pair.kind == "box" else 8
        if numbers is None or len(numbers) != count:
            reason = f"a {pair.kind} takes {count} whole numbers, (x,y) {'twice' if count == 4 else 'four times'}"
            problems.append(Problem(pair.span, text[start:stop], reason))
            continue
        make = Box.of if pair.kind == "box" else Quad.of
        objects.append(make(numbers, label, continues, pair.span))
        continues = label is not None
    return Found(tuple(objects), tuple(problems))


def _numbers(content: str) -> list[int] | None:
    """The numbers of `(1,2),(3,4)`. Like the original it does not mind where the brackets are."""
    parts = [part.strip() for part in content.replace("(", "").replace(")", "").split(",")]
    return [int(part) for part in parts] if all(NUMBER.fullmatch(part) for part in parts) else None


def to_text(objects: Iterable[Box | Quad], tags: Tags | None = None) -> str:
    """The text of boxes and quads; `parse` gives the same objects from it.

    Raises:
        ValueError: a label holds one of the tags.
    """
    tags = tags or Tags()
    pieces: list[str] = []
    label: str | None = None
    for found in objects:
        if found.label is None:
            if label is not None:
                pieces.append(",")  # without something between it would belong to the ref before
        elif found.label != label or not found.continues:
            if any(tag in found.label for tag in tags):
                raise ValueError(f"a label must not hold tags, got {found.label!r}")
            pieces.append(f"{tags.ref_start}{found.label}{tags.ref_end}")
        label = found.label
        if isinstance(found, Box):
            pieces.append(f"{tags.box_start}({found.x1},{found.y1}),({found.x2},{found.y2}){tags.box_end}")
        else:
            corners = ",".join(f"({x},{y})" for x, y in found.points)
            pieces.append(f"{tags.quad_start}{corners}{tags.quad_end}")
    return "".join(pieces)
