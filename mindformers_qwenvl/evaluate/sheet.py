"""worst.png: the samples with the worst scores, each with its picture, question, answer and truth. Pillow only."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mindformers_qwenvl.evaluate.metrics import answer_box
from mindformers_qwenvl.evaluate.metrics.grounding import GRID_END
from mindformers_qwenvl.evaluate.samples import LETTERS, Sample
from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.grounding.fonts import font_for
from mindformers_qwenvl.pictures.images import ImageError, ImagePolicy, open_image

__all__ = ["worst_rows", "write_sheet"]

SHOWN, COLUMNS = 12, 4
WIDTH, PICTURE, MARGIN = 300, 220, 12  # pixels: a panel, the longer side of its picture, between panels
TEXT, LINE, LINES = 14, 18, 9  # size of the letters, height of a line, most lines of a panel
SAID, TRUE = "#d62728", "#2ca02c"  # red is what the model said


def worst_rows(rows: Sequence[Mapping[str, Any]], count: int = SHOWN) -> list[int]:
    """Numbers of the rows with the lowest scores; of equal ones those that are furthest off, else the first ones."""

    def badness(number: int) -> tuple[float, float, int]:
        row = rows[number]
        losses, right = row.get("losses"), row.get("answer")
        sure = losses[right] - min(losses) if losses and isinstance(right, int) and right < len(losses) else 0.0
        return row["score"], (row.get("iou") or 0.0) - sure, number

    return sorted(range(len(rows)), key=badness)[:count]


def write_sheet(
    path: Path,
    samples: Sequence[Sample],
    rows: Sequence[Mapping[str, Any]],
    *,
    root: Path,
    policy: ImagePolicy | None = None,
) -> None:
    """Draw the worst of `rows`, the scores of `samples` in the same order.

    Args:
        path: the PNG.
        samples, rows: with the same ids.
        root: the folder of their pictures; policy: where those may come from.
    """
    chosen = worst_rows(rows)
    panels = [_panel(samples[number], rows[number], root, policy) for number in chosen]
    columns = min(COLUMNS, len(panels)) or 1
    heights = [
        max(panel.height for panel in panels[start : start + columns]) for start in range(0, len(panels), columns)
    ]
    sheet = Image.new(
        "RGB", (columns * (WIDTH + MARGIN) + MARGIN, sum(heights) + MARGIN * (len(heights) + 1)), "#e8e8e8"
    )
    top = MARGIN
    for start, height in zip(range(0, len(panels), columns), heights, strict=True):
        for column, panel in enumerate(panels[start : start + columns]):
            sheet.paste(panel, (MARGIN + column * (WIDTH + MARGIN), top))
        top += height + MARGIN
    with replacing(path) as file:
        sheet.save(file, format="PNG")


def _panel(sample: Sample, row: Mapping[str, Any], root: Path, policy: ImagePolicy | None) -> Image.Image:
    lines = [(line, colour) for text, colour in _texts(sample, row) for line in _wrapped(text)][:LINES]
    panel = Image.new("RGB", (WIDTH, PICTURE + 2 * MARGIN + LINE * len(lines)), "white")
    picture = _picture(sample, row, root, policy)
    panel.paste(picture, ((WIDTH - picture.width) // 2, MARGIN // 2 + (PICTURE - picture.height) // 2))
    pen = ImageDraw.Draw(panel)
    font = font_for("".join(line for line, _ in lines) or "x", TEXT)
    for number, (line, colour) in enumerate(lines):
        pen.text((MARGIN, PICTURE + MARGIN + number * LINE), line, fill=colour, font=font)
    return panel


def _texts(sample: Sample, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    said, true = row.get("answer", row.get("caption", "")), ""
    if sample.right is not None:
        said, true = (_choice(sample, number) for number in (row.get("prediction"), sample.right))
    elif sample.box is not None:
        true = "the green box"
    else:
        true = " | ".join(dict.fromkeys(sample.answers))
    score = f"{row['score']:.2f}" + (f", IoU {row['iou']:.2f}" if row.get("iou") is not None else "")
    return [
        (f"{sample.id}: {score}", "#666666"),
        (sample.question, "black"),
        (f"said: {said or '(nothing)'}", SAID),
        *([(f"true: {true}", TRUE)] if true else []),
    ]


def _choice(sample: Sample, number: int | None) -> str:
    return "" if number is None else f"{LETTERS[number]}. {sample.choices[number]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap("".join(c if c.isprintable() else " " for c in text), 40, max_lines=4, placeholder=" ...")


def _picture(sample: Sample, row: Mapping[str, Any], root: Path, policy: ImagePolicy | None) -> Image.Image:
    try:
        picture = open_image(sample.images[0], root=root, policy=policy)
    except (ImageError, OSError, IndexError):
        picture = Image.new("RGB", (PICTURE, PICTURE), "#cccccc")
    scale = PICTURE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    if sample.box is not None:
        pen = ImageDraw.Draw(picture)
        for box, size, colour in (
            (sample.box, sample.size, TRUE),
            (answer_box(row["answer"]), (GRID_END, GRID_END), SAID),
        ):
            x1, y1, x2, y2 = (
                min(max(number * side / of, 0), side - 1)
                for number, side, of in zip(box, picture.size * 2, tuple(size) * 2, strict=True)
            )
            if x2 != x1 or y2 != y1:
                corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
                pen.rectangle(corners, outline="white", width=4)  # so that it shows on a picture of its own colour
                pen.rectangle(corners, outline=colour, width=2)
    return picture
