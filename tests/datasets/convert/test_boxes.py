"""Boxes of COCO and RefCOCO, on records as these have them. No MindSpore."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from mindformers_qwenvl.datasets.convert import coco as coco_module
from mindformers_qwenvl.datasets.convert.converter import convert_file
from tests.support.convert_records import converted, texts
from tests.support.pictures import draw


@pytest.fixture
def coco(tmp_path):
    """Pictures of 200 x 100 pixels."""
    for name in ("a.jpg", "b.jpg", "train2014/COCO_train2014_000000581857.jpg"):
        draw(tmp_path / "pictures" / name, size=(200, 100))
    return tmp_path / "pictures"


def write_coco(folder, document, **dumps):
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(document, **dumps))
    return path


DOCUMENT = {
    "info": {"year": 2017},
    "licenses": [{"id": 1}],
    "images": [
        {"id": 2, "file_name": "b.jpg", "width": 200, "height": 100},
        {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": 3, "file_name": "no.jpg", "width": 200, "height": 100},
        {"id": 4, "file_name": "unused.jpg", "width": 200, "height": 100},
    ],
    "annotations": [
        {"id": 11, "image_id": 1, "category_id": 18, "bbox": [20, 10, 100, 50], "segmentation": [[1, 2]]},
        {"id": 12, "image_id": 2, "category_id": 1, "bbox": [0, 0, 200, 100]},
        {"id": 13, "image_id": 1, "category_id": 1, "bbox": [1, 1, 1, 1]},
        {"id": 14, "image_id": 1, "category_id": 18, "bbox": [0, 50, 50, 25]},
        {"id": 15, "image_id": 1, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        {"id": 16, "image_id": 3, "category_id": 18, "bbox": [0, 0, 9, 9]},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
}


@pytest.mark.parametrize("dumps", [{}, {"indent": 1}, {"sort_keys": True}])
def test_coco_instances(coco, dumps):
    output = coco.parent / "out.json"
    report = convert_file(write_coco(coco, DOCUMENT, **dumps), coco, output)
    second, first = json.loads(output.read_text())
    assert (first["id"], second["id"]) == ("1", "2")
    assert texts(first) == [
        "Picture 1: <img>a.jpg</img>\nFind every dog in the picture.",
        "<ref>dog</ref><box>(100,100),(600,600)</box><box>(0,500),(250,750)</box>",
        "Find every person in the picture.",
        "<ref>person</ref><box>(5,10),(10,20)</box>",
    ]
    assert texts(second)[1] == "<ref>person</ref><box>(0,0),(999,999)</box>"
    assert [turn["from"] for turn in first["conversations"]] == ["user", "assistant"] * 2
    assert report.notes == {"boxes left out (crowds)": 1} and report.dropped == {"missing picture": 1}
    assert "id '3'" in str(report)


def test_refcoco_as_coco(coco):
    """Expressions in the annotation (RefCOCO), beside it (REFER), or as the caption of the picture (MDETR)."""
    picture = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
    box = {"id": 11, "image_id": 1, "category_id": 18, "bbox": [20, 10, 100, 50]}
    other = {"id": 12, "image_id": 1, "category_id": 18, "bbox": [0, 0, 9, 9]}
    sentences = [{"raw": "the left  dog"}, {"sent": "dog <on> the left"}, {"raw": "the left dog"}]
    categories = [{"id": 18, "name": "dog"}]
    inside = {"images": [picture], "annotations": [{**box, "sentences": sentences}], "categories": categories}
    beside = {
        "refs": [{"ref_id": 5, "ann_id": 11, "sentences": sentences}],
        "images": [picture],
        "annotations": [other, box],
        "categories": categories,
    }
    caption = {"images": [{**picture, "caption": "the left dog"}], "annotations": [box], "categories": categories}
    one = ["Picture 1: <img>a.jpg</img>\nFind the left dog in the picture.", "<ref>the left dog</ref>"]
    two = ["Find dog on the left in the picture.", "<ref>dog on the left</ref>"]
    for document, expected in ((inside, one + two), (beside, one + two), (caption, one)):
        convert_file(write_coco(coco, document), coco, coco.parent / "out.json")
        (sample,) = json.loads((coco.parent / "out.json").read_text())
        expected = [text + "<box>(100,100),(600,600)</box>" * (number % 2) for number, text in enumerate(expected)]
        assert texts(sample) == expected


@pytest.mark.parametrize(
    "record",
    [
        {"file_name": "a.jpg", "bbox": [20, 10, 100, 50], "sentences": ["the dog"], "width": 200, "height": 100},
        {"img_path": "a.jpg", "bbox": [20, 10, 100, 50], "expression": "the dog"},  # the size is the file's
        {"image": "a.jpg", "box": [[20, 10, 100, 50]], "caption": "the dog"},
        {"image_id": 581857, "bbox": [20, 10, 100, 50], "sentence": "the dog"},
        {"file_name": "COCO_train2014_000000581857_16.jpg", "bbox": [20, 10, 100, 50], "phrase": "the dog"},
    ],
)
def test_refcoco_as_a_list(coco, record):
    (sample,) = converted(coco, [record])
    question, answer = texts(sample)
    assert answer == "<ref>the dog</ref><box>(100,100),(600,600)</box>"
    assert question.startswith("Picture 1: <img>") and question.endswith("</img>\nFind the dog in the picture.")


def test_corners_and_another_question(coco):
    record = {"id": 5, "file_name": "a.jpg", "bbox": [20, 10, 120, 60], "text": "the dog"}
    (sample,) = converted(coco, [record], box_format="xyxy", prompt="框出图中的{label}")
    assert sample["id"] == "5"
    assert texts(sample)[0].endswith("\n框出图中的the dog")
    assert "(100,100),(600,600)" in texts(sample)[1]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([20, 10, 0, 50], "no width or no height"),
        ([150, 10, 120, 60], "outside the picture; is --box_format right?"),
        ([-9, 0, 20, 20], "outside the picture"),
        ([1, 2, 3], "not four numbers"),
        ("box", "not four numbers"),
        ([1, 2, 3, None], "not four numbers"),
        ([float("nan"), 0, 1, 1], "not four numbers"),
        (None, "not four numbers"),
    ],
)
def test_bad_boxes_are_left_out(coco, box, reason):
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 200.4, 100]}
    bad = {"id": 2, "image_id": 1, "category_id": 1, "bbox": box}
    document = {**DOCUMENT, "annotations": [bad, good]}
    report = convert_file(write_coco(coco, document), coco, coco.parent / "out.json")
    assert [reason in note for note in report.notes] == [True]
    (sample,) = json.loads((coco.parent / "out.json").read_text())
    assert texts(sample)[1] == "<ref>person</ref><box>(0,0),(999,999)</box>"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"file_name": None}, "malformed record"),
        ({"sentences": []}, "malformed record"),
        ({"sentences": [" "]}, "malformed record"),
        ({"bbox": [0, 0, 0, 0]}, "no boxes"),
        ({"file_name": "broken.jpg", "width": None}, "broken picture"),
        ({"file_name": "no.jpg"}, "missing picture"),
    ],
)
def test_bad_box_records_are_left_out(coco, change, kind):
    (coco / "broken.jpg").write_bytes(b"nothing")
    good = {"file_name": "a.jpg", "bbox": [0, 0, 9, 9], "sentences": ["x"], "width": 200, "height": 100}
    (coco.parent / "in.json").write_text(json.dumps([good, {**good, **change}]))
    report = convert_file(coco.parent / "in.json", coco, coco.parent / "out.json")
    assert report.dropped == {kind: 1} and report.written == 1


def test_what_refers_to_nothing_is_counted_and_named(coco):
    picture = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
    boxes = [
        {"id": 11, "image_id": 1, "category_id": 18, "bbox": [20, 10, 100, 50]},
        {"id": 12, "image_id": 99, "category_id": 18, "bbox": [0, 0, 9, 9]},
        {"id": 13, "category_id": 18, "bbox": [0, 0, 9, 9]},
        {"id": 14, "image_id": 1, "category_id": 77, "bbox": [0, 0, 9, 9]},
    ]
    document = {"images": [picture], "annotations": boxes, "categories": [{"id": 18, "name": "dog"}]}
    output = coco.parent / "out.json"
    report = convert_file(write_coco(coco, document), coco, output)
    (sample,) = json.loads(output.read_text())
    assert texts(sample)[1] == "<ref>dog</ref><box>(100,100),(600,600)</box>"
    assert report.notes == {"boxes left out (no text, and a category without a name)": 1}
    assert report.dropped == {"malformed record": 2}
    assert "id '12': annotation 12 has image_id 99, which is not among the `images`" in str(report)
    document["refs"] = [{"ann_id": number, "sentences": ["a dog"]} for number in (11, 15)]
    report = convert_file(write_coco(coco, document), coco, output)
    assert report.dropped == {"malformed record": 1}
    assert "a ref has ann_id 15, which is not among the `annotations`" in str(report)


@pytest.mark.parametrize("query", ["LOST_BOXES", "LOST_REFS", "JOINED"])
def test_no_list_is_gone_through_once_for_each_item_of_another(query):
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(coco_module.TABLES + coco_module.INDEXES)
        query = getattr(coco_module, query)
        plan = database.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * query.count("?"))
        assert sum(step.startswith("SCAN") and "CONSTANT" not in step for *_, step in plan) <= 1


@pytest.mark.parametrize("key", ["width", "file_name", "id"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, "\ud800", True, 10**400, -1, None])
def test_odd_values_of_a_picture_are_no_trace(coco, key, value):
    """The size is then the file's; without a name or a number the picture is left out."""
    good = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
    odd = {"id": 2, "file_name": "b.jpg", "width": 200, "height": 100, key: value}
    boxes = [{"image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9]} for number in (1, 2)]
    document = {"images": [good, odd], "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    report = convert_file(write_coco(coco, document), coco, coco.parent / "out.json")
    assert report.written + report.dropped.total() == report.read == 2
    assert report.written == 1 + (key == "width")


@pytest.mark.parametrize("category", [{"id": 1, "name": 5}, {"id": 1, "name": ["dog"]}, {"id": 1}, {"name": "dog"}])
def test_a_category_without_a_name_names_no_box(coco, category):
    named = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "caption": "a dog"}
    picture = {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}
    document = {"images": [picture], "annotations": [named, {**named, "caption": 5}], "categories": [category]}
    report = convert_file(write_coco(coco, document), coco, coco.parent / "out.json")
    assert list(report.notes.values()) == [1] and report.written == 1


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"images": [], "data": []}, "without the lists"),
        ({"images": ["a.jpg"], "annotations": []}, "expected objects in 'images'"),
        ({**DOCUMENT, "annotations": [{"id": 1, "image_id": 99, "bbox": [0, 0, 1, 1]}]}, "it would have no samples"),
    ],
)
def test_bad_coco_files_are_named(coco, document, reason):
    with pytest.raises(ValueError, match=reason):
        convert_file(write_coco(coco, document, indent=1), coco, coco.parent / "out.json")
