"""Pictures of all sorts."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.support.pictures import draw


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", seed=1)
    draw(tmp_path / "large.png", size=(200, 100))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    Image.new("RGB", (3, 3)).save(tmp_path / "a.tiff")
    return tmp_path
