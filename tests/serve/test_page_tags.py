"""The page reads the tags of an answer as the package does."""

from __future__ import annotations

import random
from pathlib import Path

from mindformers_qwenvl.grounding import Box, parse
from tests.support.browser import chromium

PAGE = Path(__file__).parents[2] / "mindformers_qwenvl" / "serve" / "page"
TAGS = ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "</"]
WORDS = ["a cat", "狗", " ", "\n", ",", "\x85"]
NUMBERS = [
    "(100,200),(499,799)",
    "(9,8),(7,6)",
    "(-5,1200),(3,4)",
    "(1,2),(3)",
    "(１,2),(3,4)",
    "(1.5,2),(3,4)",
    "(1, 2) ,3",
]
WHOLE = [
    "<ref>it</ref><box>(1,2),(3,4)</box>",
    "<box>(9,80),(7,600)</box>",
    "<quad>(1,2),(3,4),(-5,6),(7,8000)</quad>",
]
PIECES = [*TAGS, *WORDS, *NUMBERS, *WHOLE]
READ = """async (texts) => {
  const { parse, toPixels } = await import("/tags.js");
  return texts.map((text) => parse(text).objects.map(({ kind, label, group, bounds, points }) =>
    ({ kind, label, group, bounds, pixels: toPixels(points ?? bounds, 641, 427) })));
}"""


def expected(text: str) -> list[dict]:
    found, group = [], -1
    for one in parse(text).objects:
        group += not one.continues
        box = isinstance(one, Box)
        pixels = one.to_pixels(641, 427)
        found.append(
            {
                "kind": "box" if box else "quad",
                "label": one.label,
                "group": group,
                "bounds": list((one if box else one.bounds).coordinates),
                "pixels": list(pixels) if box else [number for point in pixels for number in point],
            }
        )
    return found


def test_tags_are_read_as_by_the_package():
    random.seed(0)
    texts = ["".join(random.choices(PIECES, k=random.randint(1, 12))) for _ in range(2000)]
    with chromium() as browser:
        page = browser.new_page()
        page.route(
            "**/*", lambda route: route.fulfill(path=PAGE / (route.request.url.rpartition("/")[2] or "icon.svg"))
        )
        page.goto("http://page.test/")
        read = page.evaluate(READ, texts)
    for text, found in zip(texts, read, strict=True):
        assert found == expected(text), text
    kinds = [one["kind"] for found in read for one in found]
    assert kinds.count("box") > 300 and kinds.count("quad") > 20, "the texts hold too few"
