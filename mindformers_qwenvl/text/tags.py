"""The image and grounding tags: their spelling, finding them in a text, writing them. Plain Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

__all__ = ["TagPair", "Tags", "box_text", "picture_text", "quad_text", "ref_text", "tag_pairs"]


@dataclass(frozen=True)
class Tags:
    """Spelling of the nine image and grounding tags, in the order of their ids."""

    ref_start: str = "<ref>"
    ref_end: str = "</ref>"
    box_start: str = "<box>"
    box_end: str = "</box>"
    quad_start: str = "<quad>"
    quad_end: str = "</quad>"
    image_start: str = "<img>"
    image_end: str = "</img>"
    image_pad: str = "<imgpad>"

    def __iter__(self) -> Iterator[str]:
        return (getattr(self, field.name) for field in fields(self))


DEFAULT = Tags()


@dataclass(frozen=True)
class TagPair:
    """A tag pair in a text.

    kind: "image", "ref", "box" or "quad". content: the text between the tags; None if the pair is not closed.
    start, stop: its place in the text, both tags included, half-open.
    """

    kind: str
    content: str | None
    start: int
    stop: int


def tag_pairs(text: str, tags: Tags | None = None, *, across_starts: bool = False) -> Iterator[TagPair]:
    """The tag pairs of `text`, in order. An end tag without a start tag is ordinary text.

    Tags inside an image pair are part of its path. Any other pair that meets another start tag before its end tag is
    not closed, and scanning continues at that start tag. The time is linear in the length of the text.

    Args:
        text: what to scan.
        tags: spelling of the tags.
        across_starts: a pair extends to its end tag even if start tags come between, as in the original.
    """
    tags = tags or DEFAULT
    kinds = {
        tags.image_start: ("image", tags.image_end),
        tags.ref_start: ("ref", tags.ref_end),
        tags.box_start: ("box", tags.box_end),
        tags.quad_start: ("quad", tags.quad_end),
    }
    starts = re.compile("|".join(map(re.escape, kinds)))
    begin = starts.search(text)
    absent: set[str] = set()  # end tags that do not occur in the rest: no need to search for them again
    while begin:
        kind, end_tag = kinds[begin.group()]
        following = starts.search(text, begin.end())
        limit = following.start() if following and kind != "image" and not across_starts else len(text)
        end = -1 if end_tag in absent else text.find(end_tag, begin.end(), limit)
        if end < 0:
            if limit == len(text):
                absent.add(end_tag)
            yield TagPair(kind, None, begin.start(), following.start() if following else len(text))
            begin = following
        else:
            stop = end + len(end_tag)
            yield TagPair(kind, text[begin.end() : end], begin.start(), stop)
            begin = starts.search(text, stop)


def picture_text(number: int, path: str, tags: Tags | None = None) -> str:
    """`Picture N: <img>path</img>` and a newline; pictures are numbered from 1."""
    tags = tags or DEFAULT
    return f"Picture {number}: {tags.image_start}{path}{tags.image_end}\n"


def ref_text(label: str, tags: Tags | None = None) -> str:
    """`<ref>label</ref>`."""
    tags = tags or DEFAULT
    return f"{tags.ref_start}{label}{tags.ref_end}"


def box_text(corners: Sequence[int], tags: Tags | None = None) -> str:
    """`<box>(x1,y1),(x2,y2)</box>` of x1, y1, x2, y2 on the grid of 0 to 999."""
    tags = tags or DEFAULT
    x1, y1, x2, y2 = corners
    return f"{tags.box_start}({x1},{y1}),({x2},{y2}){tags.box_end}"


def quad_text(points: Sequence[tuple[int, int]], tags: Tags | None = None) -> str:
    """`<quad>(x1,y1),...,(x4,y4)</quad>` of four corners on the grid of 0 to 999."""
    tags = tags or DEFAULT
    return f"{tags.quad_start}{','.join(f'({x},{y})' for x, y in points)}{tags.quad_end}"
