"""Records of other projects with more than pictures and text, or with placeholders of their own."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mindformers_qwenvl.datasets.convert.converter import convert_file, dropped_file
from tests.support.convert_records import ask, converted, texts
from tests.support.trials import TRIALS


def trial(tmp_path, name, **options):
    """(report, samples, dropped records) of a folder of tests/golden/trials."""
    (source,) = (TRIALS / name).iterdir()
    output = tmp_path / "out.json"
    try:
        report = convert_file(source, TRIALS, output, **options)
    finally:
        lines = dropped_file(output).read_text().splitlines() if dropped_file(output).exists() else []
    return report, json.loads(output.read_text()), [json.loads(line) for line in lines]


def test_objects_fill_their_placeholders(tmp_path):
    report, (sample,), dropped = trial(tmp_path, "swift3_objects")
    assert texts(sample) == [
        "Picture 1: <img>pics/0.jpg</img>\nPicture 2: <img>pics/1.jpg</img>\nDescribe the lesion.",
        "Picture 2 shows <ref>a square</ref><box>(200,252),(601,754)</box>.",
    ]
    assert "objects" not in sample and not dropped and report.pictures == 2


def test_a_picture_in_the_text_already_is_not_put_there_again(tmp_path):
    report, samples, _ = trial(tmp_path, "image_key_and_img")
    assert [texts(sample)[0] for sample in samples] == [f"<img>pics/{n}.jpg</img>请识别图片中的物体" for n in range(3)]
    assert report.pictures == 3 and "image" not in samples[0]


def test_video_is_dropped_by_name(tmp_path):
    report, samples, (dropped,) = trial(tmp_path, "video")
    assert len(samples) == 1 and report.text_only == 0
    assert (dropped["reason"], dropped["sample"]) == ("other modality", 0) and "'videos'" in dropped["detail"]


def test_numbered_placeholders(tmp_path):
    _, (dual, single), _ = trial(tmp_path, "numbered_placeholders")
    assert texts(dual)[0] == "Picture 1: <img>pics/0.jpg</img>\nPicture 2: <img>pics/1.jpg</img>\nCompare."
    assert texts(single)[0] == "Picture 1: <img>pics/0.jpg</img>\nColour?"


def test_the_originals_refcoco_files(tmp_path):
    _, samples, _ = trial(tmp_path, "eval_refcoco", box_format="xyxy")
    assert [texts(sample)[1] for sample in samples] == [
        "<ref>the red square</ref><box>(200,250),(600,750)</box>",
        "<ref>blue ball</ref><box>(650,100),(900,400)</box>",
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<|image_1|>\n<|image_2|>\nq", "Picture 1: <img>a.jpg</img>\nPicture 2: <img>b.jpg</img>\nq"),
        ("<image_0> and <image_1>: q", "Picture 1: <img>a.jpg</img>\n and Picture 2: <img>b.jpg</img>\n: q"),
        (
            "<Image 2>\n<Image 1>\nIs <Image 2> older\nthan <Image 1>\n?",
            "Picture 2: <img>b.jpg</img>\nPicture 1: <img>a.jpg</img>\nIs Picture 2 older\nthan Picture 1\n?",
        ),
        ("<ImageHere><Img><ImageHere></Img>q", "Picture 1: <img>a.jpg</img>\nPicture 2: <img>b.jpg</img>\nq"),
        (
            "<|vision_start|><|image_pad|><|vision_end|>q<image_placeholder>",
            "Picture 1: <img>a.jpg</img>\nqPicture 2: <img>b.jpg</img>\n",
        ),
    ],
)
def test_placeholders_of_other_projects(folder, question, expected):
    (sample,) = converted(folder, [ask(question, images=["a.jpg", "b.jpg"])])
    assert texts(sample)[0] == expected


def test_words_of_html_stay_in_texts_and_are_counted(folder):
    source = folder.parent / "in.json"
    page = 'Use the <video> element:\n<video>\n<source src="a.mp4"></video>'
    source.write_text(json.dumps([ask("How does a page with <video> work?", page), ask("q")]))
    report = convert_file(source, folder, folder.parent / "out.json")
    assert report.written == 2
    assert "1 samples with <video>, <bbox>, <image1> or the like within a text, kept as words" in str(report)


def test_system_and_tools_keys_are_left_out_and_counted(folder):
    source, output = folder.parent / "in.json", folder.parent / "out.json"
    source.write_text(json.dumps([ask("q", system="Be brief.", tools="[]", label=False), ask("q", system="")]))
    report = convert_file(source, folder, output)
    assert [sorted(sample) for sample in json.loads(output.read_text())] == [
        ["conversations", "id", "label"],
        ["conversations", "id"],
    ]
    for note in ("1 `system` keys left out", "1 `tools` keys left out", "1 records with a true or false `label`"):
        assert note in str(report)


def test_a_path_in_the_text_is_written_as_it_was_found(folder):
    name = "COCO_train2014_000000442786.jpg"
    (sample,) = converted(folder, [ask(f"<img>{name}</img>q", image=f"train2014/{name}")])
    assert texts(sample)[0] == f"<img>train2014/{name}</img>q"


# ---------------------------------------------------------------- objects


@pytest.fixture
def pictures(folder):
    Image.new("RGB", (320, 240)).save(folder / "a.jpg")
    Image.new("RGB", (100, 100)).save(folder / "b.jpg")
    return folder


def shown(objects, answer="<ref-object><bbox>", **more):
    return ask("<image>q", answer, image="a.jpg", objects=objects, **more)


@pytest.mark.parametrize(
    "objects",
    [
        {"ref": ["it"], "bbox": [[64, 60, 192, 180]]},
        {"ref": ["it"], "bbox": [[0.2, 0.25, 0.6, 0.75]], "bbox_type": "norm1"},
        {"ref": ["it"], "bbox": [[200, 250, 600, 750]], "bbox_type": "norm1000"},
        [{"caption": "it", "bbox": [64, 60, 192, 180], "bbox_type": "real", "image": 0}],
        json.dumps([{"caption": "it", "bbox": [200, 250, 600, 750], "bbox_type": "norm_1000"}]),
    ],
)
def test_every_form_of_objects(pictures, objects):
    (sample,) = converted(pictures, [shown(objects)])
    assert texts(sample)[1] == "<ref>it</ref><box>(200,250),(600,750)</box>"


def test_several_boxes_of_one_object_and_the_size_the_record_gives(pictures):
    objects = [{"caption": "it", "bbox": [[0, 0, 500, 500], [500, 500, 1000, 1000]]}]
    (sample,) = converted(pictures, [shown(objects, width=1000, height=1000)])
    assert texts(sample)[1] == "<ref>it</ref><box>(0,0),(500,500)</box><box>(500,500),(999,999)</box>"


def test_objects_that_nothing_uses_are_counted(pictures):
    source = pictures.parent / "in.json"
    source.write_text(json.dumps([shown({"ref": ["it"], "bbox": [[0, 0, 9, 9]]}, "A dog.")]))
    report = convert_file(source, pictures, pictures.parent / "out.json")
    assert report.written == 1 and "1 records with `objects` that no <ref-object> or <bbox> uses" in str(report)


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ({"ref": ["it"], "bbox": []}, "0 boxes for 1 <bbox>"),
        ({"ref": ["a", "b"], "bbox": [[0, 0, 9, 9]]}, "2 names for 1 <ref-object>"),
        ({"ref": ["it"], "bbox": [[0, 0, 9]]}, "a box takes four numbers"),
        ({"ref": ["it"], "bbox": [[0, 0, 9, float("nan")]]}, "a box takes four numbers"),
        ({"ref": ["it"], "bbox": [[9, 9, 0, 0]]}, "without width or height"),
        ({"ref": ["it"], "bbox": [[0, 0, 999, 999]]}, "outside its picture of 320x240"),
        ({"ref": ["it"], "bbox": [[0, 0, 9, 9]], "image_id": [1]}, "a box refers to picture 1, counted from 0"),
        ({"ref": ["it"], "bbox": [[0, 0, 9, 9]], "image_id": [-1]}, "not the number of a picture"),
        ({"ref": ["it"], "bbox": [[0, 0, 9, 9]], "bbox_type": "feet"}, "bbox_type 'feet'"),
        ({"ref": ["<b>"], "bbox": [[0, 0, 9, 9]]}, "cannot be the name"),
        ("[[", "a text, but not JSON"),
        ("[" * 100_000, "a text, but not JSON"),
        (7, "expected an object with `ref` and `bbox`"),
    ],
)
def test_objects_that_do_not_fit_are_named(pictures, objects, reason):
    source, output = pictures.parent / "in.json", pictures.parent / "out.json"
    source.write_text(json.dumps([shown(objects), ask("good")]))
    convert_file(source, pictures, output)
    (dropped,) = map(json.loads, dropped_file(output).read_text().splitlines())
    assert dropped["reason"] == "objects" and reason in dropped["detail"]
