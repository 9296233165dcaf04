"""Where the pictures of the records are."""

from __future__ import annotations

import pytest

from tests.support.convert_records import COCO_NAME


@pytest.fixture
def folder(tmp_path):
    """Files where pictures are looked for; what is in them does not matter to conversations."""
    names = (COCO_NAME, "a.jpg", "b.jpg", "coco/train2017/1.jpg", "val2017/000000000139.jpg")
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    return tmp_path / "pictures"
