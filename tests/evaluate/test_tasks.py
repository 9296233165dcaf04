"""Tasks by the names of their splits."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.evaluate.tasks import find_task


def test_names_of_tasks():
    assert [find_task(name)[1] for name in ("refcoco_testA", "refcoco+_val", "gqa", "chartqa_test_human")] == [
        "testA",
        "val",
        "",
        "test_human",
    ]
    assert find_task("ai2diagram_test")[0].name == "ai2d"
    assert find_task("scienceqa_test_img")[0].name == "scienceqa_img"
    with pytest.raises(ValueError, match=r"no task 'mmmu'; there are flickr30k, nocaps"):
        find_task("mmmu")
