"""A machine without fonts."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.grounding import FONT_VARIABLE
from mindformers_qwenvl.grounding import fonts as fonts_module

PLACES = ("~/.local/share/fonts", "~/.fonts")


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
