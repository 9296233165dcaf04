"""Conversions of other projects' data, on records as these have them. No MindSpore."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.data.convert.conversations import ConversationReader
from mindformers_qwenvl.data.convert.pictures import Pictures
from mindformers_qwenvl.data.convert.report import Report, UnusableError
from mindformers_qwenvl.data.convert.run import convert_file, dropped_file
from mindformers_qwenvl.data.json_stream import StreamError
from tests.data_pipeline.pictures import draw

COCO_NAME = "train2014/COCO_train2014_000000442786.jpg"


@pytest.fixture
def folder(tmp_path):
    """Files where pictures are looked for; what is in them does not matter to conversations."""
    names = (COCO_NAME, "a.jpg", "b.jpg", "coco/train2017/1.jpg", "val2017/000000000139.jpg")
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    return tmp_path / "pictures"


def ask(value: str, answer: str = "A dog.", **more) -> dict:
    return {"id": "7", **more, "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]}


def converted(folder, records, name="in.json", **options) -> list[dict]:
    """The samples that `records` become, written and read as files."""
    source, output = folder.parent / name, folder.parent / "out.json"
    lines = name.endswith("l")
    source.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records), encoding="utf-8")
    convert_file(source, folder, output, **options)
    return json.loads(output.read_text())


def texts(sample) -> list[str]:
    return [turn["value"] for turn in sample["conversations"]]


# ---------------------------------------------------------------- LLaVA


def old_script(record: dict) -> dict:
    """What the script of the in-tree version made of a LLaVA-Instruct record, said another way."""
    path = f"train2014/COCO_train2014_{record.pop('image')}"
    for turn in record["conversations"]:
        turn["from"] = {"human": "user", "gpt": "assistant"}[turn["from"]]
        place = "<image>\n" if "<image>\n" in turn["value"] else "\n<image>"
        turn["value"] = f"Picture 1: <img>{path}</img>\n".join(turn["value"].split(place))
    return record


@pytest.mark.parametrize("name", ["in.json", "in.jsonl"])
@pytest.mark.parametrize(
    "question",
    [
        "<image>\nWhat is it?",
        "What is it?\n<image>",
        "Look here.\n<image>\nWhat is it?",
        "\n<image>\nWhat is it?",
        '<image>\nWhat is 图 "it" \\ 😀?',
        "<image>\nand again <image>\nWhat is it?",
    ],
)
def test_detail_23k_is_what_the_old_script_made_of_it_byte_by_byte(folder, question, name):
    records = [ask(question, image="000000442786.jpg", source="x") for _ in range(3)]
    converted(folder, records, name)
    assert (folder.parent / "out.json").read_text() == json.dumps([old_script(record) for record in records])


def test_json_lines_out(folder):
    source = folder.parent / "in.json"
    source.write_text(json.dumps([ask("<image>\nq", image="a.jpg"), ask("图")]))
    convert_file(source, folder, folder.parent / "out.jsonl")
    lines = (folder.parent / "out.jsonl").read_text().splitlines()
    assert [texts(json.loads(line))[0] for line in lines] == ["Picture 1: <img>a.jpg</img>\nq", "图"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("a <image> b", "a Picture 1: <img>a.jpg</img>\n b"),
        ("<image>", "Picture 1: <img>a.jpg</img>\n"),
        ("<image>q\n<image>", "Picture 1: <img>a.jpg</img>\nqPicture 1: <img>a.jpg</img>\n"),
        ("no place", "Picture 1: <img>a.jpg</img>\nno place"),
    ],
)
def test_where_the_old_script_left_the_place_as_it_was(folder, question, expected):
    (sample,) = converted(folder, [ask(question, image="a.jpg")])
    assert texts(sample) == [expected, "A dog."]


def test_several_pictures(folder):
    two = ask("<image>\n<image>\nCompare.", image=["a.jpg", "b.jpg"])
    later = ask("<image>\nFirst.", images=["a.jpg", "b.jpg"])
    later["conversations"] += [{"from": "human", "value": "And\n<image>"}, {"from": "gpt", "value": "Yes."}]
    nowhere = ask("Compare.", images=["a.jpg", "b.jpg"])
    both = "Picture 1: <img>a.jpg</img>\nPicture 2: <img>b.jpg</img>\nCompare."
    samples = converted(folder, [two, later, nowhere])
    assert texts(samples[0])[0] == texts(samples[2])[0] == both
    assert texts(samples[1])[::2] == ["Picture 1: <img>a.jpg</img>\nFirst.", "AndPicture 2: <img>b.jpg</img>\n"]
    assert all("image" not in sample and "images" not in sample for sample in samples)


@given(st.lists(st.text("ab\n<>", max_size=8), min_size=2, max_size=6))
def test_every_place_gets_its_picture_and_no_other_text_changes(tmp_path_factory, parts):
    paths = [f"https://x/{number}.jpg" for number in range(1, len(parts))]
    question = "<image>".join(parts)
    if question.count("<image>") != len(paths):
        return  # the texts around made another one
    reader = ConversationReader(Pictures(tmp_path_factory.getbasetemp()), "user", "assistant", Report())
    sample, count = reader.read(ask(question, images=list(paths)))
    assert count == len(paths)
    left = text = texts(sample)[0]
    for number, path in enumerate(paths, 1):
        tag = f"Picture {number}: <img>{path}</img>\n"
        assert text.count(tag) == 1
        left = left.replace(tag, "|")
    assert left.replace("\n", "") == "|".join(parts).replace("\n", "")


def test_llava_15_mix(folder):
    mix = [
        ask("<image>\nq", image="coco/train2017/1.jpg"),
        ask("Text only, and <image> is a word here.", model="gpt4"),
    ]
    first, second = converted(folder, mix)
    assert texts(first)[0] == "Picture 1: <img>coco/train2017/1.jpg</img>\nq"
    assert second == {
        "id": "7",
        "model": "gpt4",
        "conversations": [
            {"from": "user", "value": "Text only, and <image> is a word here."},
            {"from": "assistant", "value": "A dog."},
        ],
    }


@pytest.mark.parametrize("image", ["000000442786.jpg", "COCO_train2014_000000442786.jpg"])
def test_names_without_a_folder(folder, image):
    assert f"<img>{COCO_NAME}</img>" in texts(converted(folder, [ask("<image>", image=image)])[0])[0]


def test_where_pictures_are_looked_for(folder):
    pictures = Pictures(folder)
    assert pictures.find("000000000139.jpg") == "val2017/000000000139.jpg"
    assert pictures.find("a.jpg") == "a.jpg"
    assert pictures.find(str(folder / "b.jpg")) == str(folder / "b.jpg")
    assert pictures.find("https://example.com/x.jpg") == "https://example.com/x.jpg"
    assert pictures.find("data:image/png;base64,AA==") == "data:image/png;base64,AA=="
    assert Pictures(folder / "train2014").find("000000442786.jpg") == "COCO_train2014_000000442786.jpg"
    for name in ("1.jpg", "train2017/1.jpg", "gqa/a.jpg", "{}.jpg", "a\0.jpg", ""):
        with pytest.raises(UnusableError):
            pictures.find(name)
    with pytest.raises(FileNotFoundError, match=r"image_location .*nowhere: no such folder"):
        Pictures(folder / "nowhere")


# ---------------------------------------------------------------- ShareGPT


def test_other_roles_and_keys(folder):
    record = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": "A dog."},
        ],
        "images": ["a.jpg"],
    }
    samples = converted(folder, [record], user_role_name="q", assistant_role_name="a")
    assert samples == [
        {
            "conversations": [
                {"from": "q", "value": "Picture 1: <img>a.jpg</img>\nWhat?"},
                {"from": "a", "value": "A dog."},
            ]
        }
    ]


@pytest.mark.parametrize(("ours", "theirs"), [("human", "chatgpt"), ("user", "bot"), ("user", "model")])
def test_names_of_roles(folder, ours, theirs):
    record = {"conversations": [{"from": ours, "value": "q"}, {"from": theirs, "value": "r", "markdown": None}]}
    (sample,) = converted(folder, [record])
    assert sample["conversations"] == [
        {"from": "user", "value": "q"},
        {"from": "assistant", "value": "r", "markdown": None},
    ]


def test_contents_in_parts(folder):
    parts = [
        {"type": "image_url", "image_url": {"url": "https://x/1.jpg"}},
        {"type": "text", "text": "and"},
        {"type": "image", "image": "a.jpg"},
        {"type": "text", "text": "Compare."},
    ]
    answer = [{"type": "text", "text": "A dog."}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]}
    expected = "Picture 1: <img>https://x/1.jpg</img>\nandPicture 2: <img>a.jpg</img>\nCompare."
    assert texts(converted(folder, [record])[0]) == [expected, "A dog."]


def test_what_is_qwenvl_already_stays(folder):
    record = {
        "id": "1",
        "conversations": [
            {"from": "user", "value": "Picture 1: <img>a.jpg</img>\nq"},
            {"from": "assistant", "value": "<ref>r</ref><box>(1,2),(3,4)</box>"},
        ],
    }
    assert converted(folder, [record]) == [record]


# ---------------------------------------------------------------- faults


FAULTS = {
    "missing": (ask("<image>\nq", image="no.jpg"), "missing picture", "no train2014/COCO_train2014_no.jpg"),
    "missing, deep": (ask("<image>\nq", image="gqa/no.jpg"), "missing picture", "no gqa/no.jpg in "),
    "missing, one of two": (ask("<image><image>", images=["a.jpg", "no.jpg"]), "missing picture", "no.jpg"),
    "missing, in a tag": (ask("<img>no.jpg</img>"), "missing picture", "no.jpg"),
    "role": (
        {"id": "7", "conversations": [{"from": "human", "value": "q"}, {"from": "tool", "value": "r"}]},
        "unknown role",
        "turn 1: 'tool'",
    ),
    "too few places": (ask("<image>", images=["a.jpg", "b.jpg"]), "places of pictures", "2 pictures and 1 <image>"),
    "too many places": (ask("<image>" * 3, images=["a.jpg", "b.jpg"]), "places of pictures", "2 pictures and 3"),
    "unclosed": (ask("Write <img> in HTML."), "image tags", "turn 0: an <img> that is not closed"),
    "nested": (ask("q", "<img>a.jpg<img>b.jpg</img>"), "image tags", "turn 1"),
    "no turns": ({"id": "7", "conversations": []}, "malformed record", "a list of turns"),
    "no list": ({"id": "7", "conversations": "hi"}, "malformed record", "a list of turns"),
    "only system": (
        {"id": "7", "conversations": [{"from": "system", "value": "q"}]},
        "malformed record",
        "no turns but the system's",
    ),
    "no text": ({"id": "7", "conversations": [{"from": "human"}]}, "malformed record", "turn 0 has no role or no text"),
    "no object": ({"id": "7", "conversations": ["hi"]}, "malformed record", "turn 0 is no object: 'hi'"),
    "image a number": (ask("<image>", image=7), "malformed record", "a path of a picture"),
    "tag in a name": (ask("<image>", image="https://x/<img>"), "malformed record", "holds an image tag"),
    "no question": (
        {"id": "7", "image": "a.jpg", "conversations": [{"from": "gpt", "value": "r"}]},
        "malformed record",
        "neither <image> nor a question",
    ),
    "part": (
        {"id": "7", "messages": [{"role": "user", "content": [{"type": "video"}]}]},
        "malformed record",
        "no picture: 'video'",
    ),
    "keys": ({"id": "7", "talk": []}, "malformed record", "found the keys id, talk"),
    "a text": ("hi", "malformed record", "found 'hi'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_left_out_and_named(folder, fault):
    record, kind, detail = FAULTS[fault]
    source, output = folder.parent / "in.json", folder.parent / "out.json"
    source.write_text(json.dumps([ask("good"), record, ask("good, too")]))
    report = convert_file(source, folder, output)
    assert [texts(sample)[0] for sample in json.loads(output.read_text())] == ["good", "good, too"]
    (line,) = map(json.loads, dropped_file(output).read_text().splitlines())
    assert (line["sample"], line["reason"]) == (1, kind)
    assert line["id"] == ("7" if isinstance(record, dict) else None)
    assert detail in line["detail"]
    assert report.dropped == {kind: 1} and (report.read, report.written) == (3, 2)
    assert kind in str(report) and line["detail"] in str(report)
    assert ("id '7'" if isinstance(record, dict) else "sample 1") in str(report)


def test_a_torn_line_is_left_out(folder):
    source, output = folder.parent / "in.jsonl", folder.parent / "out.json"
    source.write_text(json.dumps(ask("good")) + '\n{"id": "8", "conversations": [{"fr')
    report = convert_file(source, folder, output)
    assert len(json.loads(output.read_text())) == 1
    assert "line 2 column" in str(report) and report.dropped == {"not JSON": 1}


def test_the_report_names_the_first_only(folder):
    source, output = folder.parent / "in.json", folder.parent / "out.json"
    records = [ask("good"), *({**ask("<image>", image="no.jpg"), "id": f"id{number}"} for number in range(100))]
    source.write_text(json.dumps(records))
    text = str(convert_file(source, folder, output))
    assert "missing picture: 100" in text and "'id4'" in text and "'id5'" not in text
    assert len(dropped_file(output).read_text().splitlines()) == 100


def test_a_clean_conversion_removes_an_old_list_of_dropped_records(folder):
    dropped_file(folder.parent / "out.json").write_text("{}")
    converted(folder, [ask("good")])
    assert not dropped_file(folder.parent / "out.json").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        ("hello", "starts with 'h'"),
        ("[]", "no sample would be in it"),
        ('[{"id": 1', r"not valid JSON: .* line 1 column"),
        ('{"id":\n 1}', "an object without the lists"),
        (json.dumps([ask("<image>", image="no.jpg")]), "missing picture: 1"),
    ],
)
def test_what_cannot_be_converted_leaves_the_old_output_alone(folder, content, reason):
    source, output = folder.parent / "in.json", folder.parent / "out.json"
    source.write_text(content)
    output.write_text("before")
    with pytest.raises(ValueError, match=reason):
        convert_file(source, folder, output)
    assert output.read_text() == "before"
    assert {path.name for path in folder.parent.iterdir()} == {"in.json", "out.json", "pictures"}


def test_bad_arguments(folder):
    source = folder.parent / "in.json"
    source.write_text(json.dumps([ask("q")]))
    for options, reason in [
        ({"format": "xml"}, "format is one of"),
        ({"user_role_name": "a", "assistant_role_name": "a"}, "must differ"),
        ({"box_format": "yx"}, "box_format"),
        ({"prompt": "Where?"}, "{label}"),
    ]:
        with pytest.raises(ValueError, match=reason):
            convert_file(source, folder, folder.parent / "out.json", **options)
    with pytest.raises(ValueError, match="is the input"):
        convert_file(source, folder, source)
    with pytest.raises(ValueError, match="is a folder"):
        convert_file(source, folder, folder)
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert_file(folder.parent / "no.json", folder, folder.parent / "out.json")
    with pytest.raises(StreamError, match="COCO is an object"):
        convert_file(source, folder, folder.parent / "out.json", format="coco")


def test_a_format_that_is_given_is_the_only_one(folder):
    boxes = {"file_name": "a.jpg", "bbox": [0, 0, 1, 1], "width": 9, "height": 9, "sentences": ["x"]}
    assert len(converted(folder, [boxes, ask("q")])) == 2
    assert len(converted(folder, [boxes, ask("q")], format="refcoco")) == 1
    (only,) = converted(folder, [boxes, ask("q")], format="llava")
    assert texts(only)[0] == "q"


# ---------------------------------------------------------------- boxes


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
        ([150, 10, 120, 60], "outside of the picture; is --box_format right?"),
        ([-9, 0, 20, 20], "outside of the picture"),
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


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"images": [], "data": []}, "without the lists"),
        ({"images": ["a.jpg"], "annotations": []}, "expected objects in 'images'"),
        ({**DOCUMENT, "annotations": [{"id": 1, "image_id": 99, "bbox": [0, 0, 1, 1]}]}, "no sample would be in it"),
    ],
)
def test_bad_coco_files_are_named(coco, document, reason):
    with pytest.raises(ValueError, match=reason):
        convert_file(write_coco(coco, document, indent=1), coco, coco.parent / "out.json")
