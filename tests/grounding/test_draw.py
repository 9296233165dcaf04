"""Drawing: where the colours are, and which picture is the last one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from mindformers_qwenvl.grounding import Box, Quad, draw, draw_on_latest_picture
from mindformers_qwenvl.grounding.draw import COLOURS, latest_picture
from mindformers_qwenvl.pictures.images import ImageError, ImageRefusedError
from tests.support.drawings import white
from tests.support.golden import golden_set
from tests.support.pictures import draw as draw_file
from tests.support.web import data_uri, picture


def colours_of(image: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


# ---- outlines


def test_a_box_is_drawn_at_its_pixels():
    image = white()
    drawn = np.asarray(draw(image, [Box(100, 200, 500, 799)]))
    assert (np.asarray(image) == 255).all()  # the picture itself stays
    coloured = np.argwhere((drawn != 255).any(axis=2))
    assert coloured.min(axis=0).tolist() == [20, 20] and coloured.max(axis=0).tolist() == [79, 100]
    assert (drawn[25:75, 25:95] == 255).all()
    assert colours_of(draw(image, [Box(100, 200, 500, 799)])) == {(255, 255, 255), ImageColor.getrgb(COLOURS[0])}


def test_a_quad_is_drawn_along_its_sides():
    drawn = np.asarray(draw(white(), [Quad(((100, 100), (900, 200), (800, 900), (50, 800)))]))
    blue = (drawn == ImageColor.getrgb(COLOURS[0])).all(axis=2)
    for x1, y1, x2, y2 in ((20, 10, 180, 20), (180, 20, 160, 90), (160, 90, 10, 80), (10, 80, 20, 10)):
        for part in np.linspace(0.1, 0.9, 9):
            x, y = round(x1 + part * (x2 - x1)), round(y1 + part * (y2 - y1))
            assert blue[y - 1 : y + 2, x - 1 : x + 2].any()
    assert not blue[45:55, 60:120].any()


def test_each_ref_has_its_colour():
    found = [Box(0, 0, 100, 100, "a"), Box(300, 300, 400, 400, "a", True), Box(600, 600, 700, 700, "b")]
    drawn = np.asarray(draw(white(500, 500), found))
    first, second = ImageColor.getrgb(COLOURS[0]), ImageColor.getrgb(COLOURS[1])
    assert tuple(drawn[199, 199]) == tuple(drawn[151, 199]) == first and tuple(drawn[349, 349]) == second
    many = [Box(10 * i, 0, 10 * i + 9, 999) for i in range(23)]
    assert len(colours_of(draw(white(1000, 50), many)) - {(255, 255, 255)}) == 10
    assert colours_of(draw(white(), many[:3], colours=["red"])) == {(255, 255, 255), (255, 0, 0)}


@settings(max_examples=50)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 999), min_size=4, max_size=4).map(lambda n: Box.of(n, "a label")),
            st.lists(st.integers(0, 999), min_size=8, max_size=8).map(Quad.of),
        ),
        max_size=3,
    ),
)
def test_pictures_of_any_size(width, height, found):
    drawn = draw(white(width, height), found)
    assert drawn.size == (width, height) and drawn.mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1"])
def test_pictures_of_any_mode(mode):
    assert colours_of(draw(Image.new(mode, (50, 50), 1), [Box(0, 0, 500, 500)])) > {ImageColor.getrgb(COLOURS[0])}


# ---- conversations


ANSWER = "<ref>cat</ref><box>(100,200),(500,800)</box>"


def test_the_latest_picture_is_that_of_the_latest_query():
    history = [("<img>1.png</img><img>2.png</img>a", "<img>answered.png</img>"), ("b", None)]
    assert latest_picture("c", history) == "2.png"
    assert latest_picture("<img>3.png</img>", history) == "2.png"  # what the model wrote opens nothing
    assert latest_picture("<img>3.png</img>What? <img>4.png</img>") == "4.png"  # a whole text, with its prompt
    assert latest_picture("c", [*history, ("Picture 1: <img>4.png</img>\nwhat", "d")]) == "4.png"
    assert latest_picture("c", [([{"image": "5.png"}, {"image": b"6"}, {"text": "?"}], "d"), ("e", "f")]) == b"6"
    assert latest_picture("<img>open", [("<img></img>", "x")]) is None
    assert latest_picture("c") is None


def test_boxes_on_the_latest_picture(tmp_path, caplog):
    path = draw_file(tmp_path / "图" / "a.png", size=(100, 50))
    history = [(f"Picture 1: <img>{path}</img>\nFind the cat.", ANSWER)]
    drawn = draw_on_latest_picture(ANSWER, history)
    want = draw(Image.open(path), [Box(100, 200, 500, 800, "cat")])
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(want))
    assert draw_on_latest_picture("no box", history) is None
    assert draw_on_latest_picture(ANSWER, [("no picture", ANSWER)]) is None
    assert draw_on_latest_picture(ANSWER) is None
    again = draw_on_latest_picture(f"{ANSWER}<box>(1,2</box>", history)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(want))
    assert "not a box, left out: characters 44 to 59, '<box>(1,2</box>'" in caplog.text
    relative = [("<img>a.png</img>", None)]
    np.testing.assert_array_equal(
        np.asarray(draw_on_latest_picture(ANSWER, relative, root=path.parent)), np.asarray(want)
    )


@pytest.mark.parametrize("kind", ["bytes", "data", "image"])
def test_pictures_that_are_no_files(kind):
    data = picture("PNG", (100, 50))
    source = {"bytes": data, "data": data_uri(data), "image": white(100, 50)}[kind]
    assert draw_on_latest_picture(ANSWER, [([{"image": source}], "x")]).size == (100, 50)


def test_a_picture_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        draw_on_latest_picture(ANSWER, [("<img>none.png</img>", None)])
    with pytest.raises(ImageRefusedError, match="rule allow_private"):
        draw_on_latest_picture(ANSWER, [("<img>http://127.0.0.1/a.png</img>", None)])
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(ImageError, match=r"bad\.png"):
        draw_on_latest_picture(ANSWER, [(f"<img>{tmp_path / 'bad.png'}</img>", None)])


def test_the_method_of_the_tokenizer(tmp_path):
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    path = draw_file(tmp_path / "a.png", size=(100, 50))
    tokenizer = QwenVLTokenizer(golden_set("a56").vocab_file, box_start_tag="[box]")
    query = tokenizer.from_list_format([{"image": str(path)}, {"text": "Find the cat."}])
    answer = ANSWER.replace("<box>", "[box]")
    image = tokenizer.draw_bbox_on_latest_picture(answer, [(query, answer)])
    np.testing.assert_array_equal(np.asarray(image), np.asarray(draw_on_latest_picture(ANSWER, [(query, None)])))
    image.save(tmp_path / "boxes.jpg")
    assert tokenizer.draw_bbox_on_latest_picture(ANSWER, [(query, None)]) is None
    assert tokenizer.draw_bbox_on_latest_picture(answer) is None


def test_the_example_of_the_package(tmp_path):
    path = draw_file(tmp_path / "cat.png", size=(100, 50))
    code = (
        "from PIL import Image\nfrom mindformers_qwenvl.grounding import draw, parse\n"
        f"image, found = Image.open({str(path)!r}), parse({ANSWER!r})\n"
        "for box in found.boxes:\n    print(box.label, box.to_pixels(*image.size))\n"
        f"draw(image, found.objects).save({str(tmp_path / 'boxes.png')!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "cat (10, 10, 50, 40)\n"
    assert Image.open(tmp_path / "boxes.png").size == (100, 50)
