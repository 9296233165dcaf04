"""Pictures of coloured shapes with questions about them, in the Qwen-VL conversation format. numpy and Pillow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mindformers_qwenvl.grounding import Box, to_text
from mindformers_qwenvl.text.tags import picture_text

__all__ = [
    "COLOURS",
    "KINDS",
    "NEW_COLOURS",
    "SIZE",
    "TOPICS",
    "Question",
    "Shape",
    "ask",
    "draw_shape",
    "paint",
    "write_dataset",
]

COLOURS = {"red": (214, 40, 40), "green": (30, 150, 60), "blue": (40, 70, 215), "yellow": (240, 205, 20)}
NEW_COLOURS = {"purple": (140, 40, 190)}  # what an adapter learns
KINDS = ("square", "ring", "triangle")
TOPICS = ("colour", "shape", "box")
OFTEN = (
    0.1,
    0.35,
    0.55,
)  # shares of the topics; boxes take longest to learn, and their answers name colour and shape, too
SIZE = 56  # pixels a side
CELLS = 4  # corners of shapes are on a grid of this many cells per side
OVERSAMPLED = 4  # shapes are painted this many times larger and then reduced, which smooths their edges


@dataclass(frozen=True)
class Shape:
    """A shape. `box`: x1, y1, x2, y2 in pixels."""

    kind: str
    colour: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Question:
    """`topic`: colour, shape or box; `answer`: what the assistant should say."""

    topic: str
    text: str
    answer: str


def draw_shape(rng: np.random.Generator, colours: Iterable[str] = tuple(COLOURS)) -> Shape:
    """A shape of two or three cells a side, anywhere in the picture."""
    cells, cell = int(rng.integers(2, 4)), SIZE // CELLS
    x, y = (int(rng.integers(0, CELLS + 1 - cells)) * cell for _ in range(2))
    side = cells * cell
    return Shape(str(rng.choice(KINDS)), str(rng.choice(list(colours))), (x, y, x + side, y + side))


def paint(shape: Shape, rng: np.random.Generator) -> Image.Image:
    """The picture, RGB: a grey background with some noise, and a colour that varies a little."""
    picture = Image.new("RGB", (SIZE * OVERSAMPLED,) * 2, tuple(int(c) for c in rng.integers(117, 123, 3)))
    pen = ImageDraw.Draw(picture)
    fill = tuple(int(np.clip(c + rng.integers(-15, 16), 0, 255)) for c in (COLOURS | NEW_COLOURS)[shape.colour])
    x1, y1, x2, y2 = (v * OVERSAMPLED for v in shape.box)
    if shape.kind == "ring":
        pen.ellipse((x1, y1, x2 - 1, y2 - 1), outline=fill, width=(x2 - x1) // 5)
    elif shape.kind == "square":
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=fill)
    else:
        pen.polygon([((x1 + x2) / 2, y1), (x2 - 1, y2 - 1), (x1, y2 - 1)], fill=fill)
    pixels = np.asarray(picture.reduce(OVERSAMPLED), np.int16)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))


def ask(shape: Shape, topic: str) -> Question:
    """The question about `shape` for a topic."""
    if topic == "colour":
        return Question(topic, f"What colour is the {shape.kind}?", shape.colour)
    if topic == "shape":
        return Question(topic, f"Which shape is {shape.colour}?", shape.kind)
    name = f"{shape.colour} {shape.kind}"
    answer = to_text([Box.from_pixels(shape.box, SIZE, SIZE, name)])
    return Question(topic, "Find the shape.", answer)


def write_dataset(
    folder: Path,
    samples: int,
    seed: int,
    topics: tuple[str, ...] | None = None,
    colours: Iterable[str] = tuple(COLOURS),
) -> Path:
    """Paint `samples` pictures into `folder` and write `folder`.json beside it; returns the JSON file.

    `topics` take turns; with None they are drawn at random, as for training. Besides id and conversations, each record
    has the keys topic, text, answer, drawn and image, to check answers with.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(samples):
        shape = draw_shape(rng, colours)
        topic = topics[index % len(topics)] if topics else str(rng.choice(TOPICS, p=OFTEN))
        question = ask(shape, topic)
        image = folder / f"{index:05d}.png"
        paint(shape, rng).save(image)
        value = picture_text(1, f"{folder.name}/{image.name}") + question.text
        turns = [{"from": "user", "value": value}, {"from": "assistant", "value": question.answer}]
        record = {"id": f"{folder.name}_{index}", "image": str(image), "drawn": asdict(shape), **asdict(question)}
        records.append({**record, "conversations": turns})
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(records), encoding="utf-8")
    return file
