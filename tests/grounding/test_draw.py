"""Drawing: where the colours are, which font is taken, which picture is the last one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from mindformers_qwenvl.grounding import FONT_VARIABLE, Box, FontWarning, Quad, draw, draw_on_latest_picture
from mindformers_qwenvl.grounding import fonts as fonts_module
from mindformers_qwenvl.grounding.draw import COLOURS, latest_picture
from mindformers_qwenvl.pictures.images import ImageError, ImageRefusedError
from tests.support.golden import golden_set
from tests.support.pictures import draw as draw_file
from tests.support.web import data_uri, picture

PLACES = ("~/.local/share/fonts", "~/.fonts")


def make_font(path: Path, letters: str) -> Path:
    """A font in which every one of `letters` is a filled square, and everything else an empty frame."""

    def glyph(*squares: tuple[int, int]):
        pen = TTGlyphPen(None)
        for low, high in squares:
            corners = [(low, low), (low, high), (high, high), (high, low)]
            corners = corners if low == 0 else corners[::-1]  # the second one cuts a hole
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
        return pen.glyph()

    names = {ord(letter): f"u{ord(letter):x}" for letter in letters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({".notdef": glyph((0, 800), (100, 700)), **{name: glyph((0, 800)) for name in names.values()}})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (900, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


@pytest.fixture
def no_fonts(monkeypatch, tmp_path):
    """A machine without fonts of its own, that has not warned yet."""
    monkeypatch.delenv(FONT_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(fonts_module, "FOLDERS", PLACES)
    monkeypatch.setattr(fonts_module, "PACKAGES", ("qwenvl-test-fonts",))
    monkeypatch.setattr(fonts_module, "_warned", False)
    fonts_module._search.cache_clear()
    yield tmp_path / "home"
    fonts_module._search.cache_clear()


def white(width: int = 200, height: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


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


# ---- labels


def label_area(drawn: Image.Image) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the dark ground of a label on a white picture, half-open, but for the outline (3 pixels wide)
    that shines through."""
    dark = np.argwhere((np.asarray(drawn) == 51).all(axis=2))  # black, four fifths opaque
    (y1, x1), (y2, x2) = dark.min(axis=0), dark.max(axis=0)
    return int(x1), int(y1), int(x2) + 1, int(y2) + 1


def test_a_label_stands_at_the_upper_left_corner_of_the_first_box(no_fonts):
    drawn = draw(white(300, 200), [Box(100, 200, 700, 900, "cat"), Box(800, 800, 900, 900, "cat", True)])
    x1, y1, x2, y2 = label_area(drawn)
    assert (x1, y1) == (33, 43) and 20 < x2 - x1 < 60 and 10 < y2 - y1 < 30
    bright = np.asarray(drawn)[y1:y2, x1:x2].max(axis=(0, 1))
    assert bright[2] >= 204  # the box is blue


@pytest.mark.parametrize(
    "box", [Box(950, 950, 999, 999, "a label"), Box(0, 0, 10, 10, "a label"), Box(999, 0, 999, 0, "a")]
)
def test_labels_stay_on_the_picture(box, no_fonts):
    x1, y1, x2, y2 = label_area(draw(white(120, 60), [box]))
    apart = label_area(draw(white(400, 400), [Box(100, 100, 900, 900, box.label)]))
    assert abs((x2 - x1) - (apart[2] - apart[0])) <= 3 and abs((y2 - y1) - (apart[3] - apart[1])) <= 3
    assert 0 <= x1 < x2 <= 120 and 0 <= y1 < y2 <= 60


def test_characters_without_a_shape_are_left_out(no_fonts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odd = draw(white(), [Box(0, 0, 999, 999, "a\u200b\x00\ud800\u00ad b\n")])
        np.testing.assert_array_equal(np.asarray(odd), np.asarray(draw(white(), [Box(0, 0, 999, 999, "a b")])))
        empty = draw(white(), [Box(0, 0, 999, 999, "\u200b")])
        np.testing.assert_array_equal(np.asarray(empty), np.asarray(draw(white(), [Box(0, 0, 999, 999)])))


@settings(max_examples=60)
@given(st.text(max_size=30))
@pytest.mark.filterwarnings("ignore::mindformers_qwenvl.grounding.FontWarning")
def test_any_label_can_be_drawn(label):
    assert draw(white(90, 60), [Box(100, 100, 900, 900, label)]).size == (90, 60)


def test_long_labels_are_folded(no_fonts):
    x1, y1, x2, y2 = label_area(
        draw(white(100, 300), [Box(0, 0, 500, 500, "a label of many words, none of them long")])
    )
    one = label_area(draw(white(100, 300), [Box(0, 0, 500, 500, "a label")]))
    assert x2 - x1 <= 100 and y2 - y1 > 3 * (one[3] - one[1])
    label_area(draw(white(40, 300), [Box(0, 0, 500, 500, "x" * 60)]))


def hidden(size, boxes: list[Box]) -> float:
    """The part of a white picture that is no longer white, because of labels alone."""
    plain = [replace(box, label=None) for box in boxes]
    with_labels, without = (np.asarray(draw(white(*size), some)) for some in (boxes, plain))
    return float((with_labels != without).any(axis=2).mean())


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.lists(
        st.builds(
            Box.of, st.lists(st.integers(0, 999), min_size=4, max_size=4), st.text("abc def", min_size=1, max_size=40)
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_labels_hide_no_more_than_half_of_a_small_picture(size, boxes):
    assert hidden(size, boxes) <= 0.5
    assert hidden(size, boxes[:1]) <= 0.25


def test_labels_on_small_pictures(no_fonts, caplog):
    assert 0 < hidden((56, 56), [Box(0, 250, 750, 999, "blue square")]) <= 0.25
    assert not caplog.text
    assert hidden((20, 12), [Box(0, 0, 600, 600, "cat")]) == 0
    assert "the picture of 20x12 pixels is too small for the label 'cat'" in caplog.text


def test_a_label_does_not_hide_a_small_box(no_fonts):
    for y, below in ((500, False), (0, True)):
        x1, y1, _, y2 = label_area(draw(white(400, 400), [Box(500, y, 530, y + 30, "a bird")]))
        assert x1 == 200
        assert y1 > 12 if below else y2 <= 200


def test_labels_do_not_hide_each_other(no_fonts):
    first, second = Box(100, 100, 900, 900, "one thing"), Box(100, 100, 800, 950, "another")
    both = np.asarray(draw(white(400, 400), [first, second]))
    places = {
        label: (both == colour).all(axis=2).sum()
        for label, colour in (("one", (51, 119, 204)), ("another", (255, 127, 51)))
    }
    alone = np.asarray(draw(white(400, 400), [first]))
    assert places["one"] >= (alone == (51, 119, 204)).all(axis=2).sum() > 0 and places["another"] > 0


# ---- fonts


def squares(drawn: Image.Image) -> int:
    """Pixels of the label's own colour: many if its letters are the filled squares of `make_font`."""
    return int((np.asarray(drawn) == (51, 119, 204)).all(axis=2).sum())


CHINESE = [Box(100, 100, 900, 900, "格子衬衫")]
FILLED = 4 * 11 * 11  # four squares, at least so large


def test_chinese_takes_a_font_that_has_it(no_fonts, tmp_path, monkeypatch):
    own = make_font(tmp_path / "own.ttf", "格子衬衫")
    assert squares(draw(white(), CHINESE, font=own)) > FILLED
    monkeypatch.setenv(FONT_VARIABLE, str(own))
    assert squares(draw(white(), CHINESE)) > FILLED
    monkeypatch.delenv(FONT_VARIABLE)
    fonts_module._search.cache_clear()
    make_font(no_fonts / ".fonts" / "wqy-without.ttf", "格子衬")  # one letter is missing
    make_font(no_fonts / ".fonts" / "noto" / "NotoSansSC-Regular.otf", "格子衬衫")
    (no_fonts / ".fonts" / "NotoSansCJK-broken.ttc").write_bytes(b"nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert squares(draw(white(), CHINESE)) > FILLED
        assert squares(draw(white(), [Box(100, 100, 900, 900, "cat")])) < FILLED  # Pillow's own has these


def test_a_font_of_an_installed_package(no_fonts, tmp_path, monkeypatch):
    site = tmp_path / "site"
    make_font(site / "some_fonts" / "Some.ttf", "格子衬衫")
    info = site / "qwenvl_test_fonts-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qwenvl-test-fonts\nVersion: 1\n")
    (info / "RECORD").write_text("some_fonts/Some.ttf,,\nsome_fonts/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(site))
    assert squares(draw(white(), CHINESE)) > FILLED


@pytest.mark.skipif(not Path("/usr/bin/fc-list").exists(), reason="needs fontconfig")
def test_a_font_that_fontconfig_knows(no_fonts, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(fonts_module, "FOLDERS", ())
    letters = "\U000f1234\U000f1235"  # private letters, which no font of the machine has
    make_font(no_fonts / ".fonts" / "mine.ttf", letters)
    assert squares(draw(white(), [Box(100, 100, 900, 900, letters)])) > 2 * 11 * 11


def test_without_a_font_there_is_one_warning(no_fonts):
    with pytest.warns(
        FontWarning, match=rf"\(子格衫衬\): no font of this machine.*font=.*{FONT_VARIABLE}.*pip install"
    ):
        drawn = draw(white(), CHINESE)
    assert label_area(drawn)[:2] == (23, 13) and squares(drawn) < FILLED  # the label is there, its letters are frames
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(white(), [Box(0, 0, 9, 9, "还")])


def test_a_font_that_was_asked_for_is_taken_and_what_it_lacks_is_said(no_fonts, tmp_path):
    own = make_font(tmp_path / "own.ttf", "格子")
    with pytest.warns(FontWarning, match=r"\(衫衬\): the font .*own\.ttf does not have all"):
        assert 2 * 11 * 11 < squares(draw(white(), CHINESE, font=own)) < FILLED * 2


def test_fonts_that_are_none(no_fonts, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"font: no font file .*none\.ttf"):
        draw(white(), CHINESE, font=tmp_path / "none.ttf")
    (tmp_path / "bad.ttf").write_text("x")
    monkeypatch.setenv(FONT_VARIABLE, str(tmp_path / "bad.ttf"))
    with pytest.raises(ValueError, match=rf"{FONT_VARIABLE}: .*bad\.ttf is not a font"):
        draw(white(), CHINESE)


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


@pytest.mark.parametrize("label", ["x" * 600, "word " * 20_000, "\n".join("ab" * 3000)])
def test_a_label_of_any_length_is_drawn_soon(label):
    started = time.process_time()  # whatever else the machine does
    draw(Image.new("RGB", (448, 448)), [Box(100, 100, 900, 900, label)])
    assert time.process_time() - started < 5


def test_any_number_of_labels_is_drawn_soon():
    boxes = [Box(n % 900, n % 800, n % 900 + 90, n % 800 + 90, f"label {n}") for n in range(5000)]
    started = time.process_time()  # whatever else the machine does
    draw(Image.new("RGB", (2000, 1500)), boxes)
    assert time.process_time() - started < 20
