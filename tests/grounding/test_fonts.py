"""Which font is taken for a label."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from mindformers_qwenvl.grounding import FONT_VARIABLE, Box, FontWarning, draw
from mindformers_qwenvl.grounding import fonts as fonts_module
from tests.support.drawings import label_area, white


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
