"""What cannot be converted is left out and named; and arguments that make no sense. No MindSpore."""

from __future__ import annotations

import json

import pytest

from mindformers_qwenvl.datasets.convert.converter import convert_file, dropped_file
from mindformers_qwenvl.datasets.json_stream import StreamError
from tests.support.convert_records import ask, converted, texts

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
    "too few places": (ask("<image>", images=["a.jpg", "b.jpg"]), "places of pictures", "2 pictures for 1 <image>"),
    "too many places": (ask("<image>" * 3, images=["a.jpg", "b.jpg"]), "places of pictures", "2 pictures for 3"),
    "place, no picture": (ask("<image>\nq"), "places of pictures", "turn 0 has an <image>, but the record no picture"),
    "place at the end, no picture": (ask("q\n<image>"), "places of pictures", "the record no picture"),
    "place, an empty name": (ask("q <image> ", image=""), "places of pictures", "the record no picture"),
    "half a character": (ask("<image>", image="\ud800.jpg"), "malformed record", r"'\ud800.jpg' is not the name"),
    "a folder": (ask("<image>", image="train2014"), "missing picture", "no train2014/COCO_train2014_train2014"),
    "a folder, deep": (ask("<image>", image="coco/train2017"), "missing picture", "no coco/train2017 in "),
    "unclosed": (ask("Write <img> in HTML."), "image tags", "turn 0: an <img> is not closed"),
    "nested": (ask("q", "<img>a.jpg<img>b.jpg</img>"), "image tags", "turn 1"),
    "no turns": ({"id": "7", "conversations": []}, "malformed record", "a list of turns"),
    "no list": ({"id": "7", "conversations": "hi"}, "malformed record", "a list of turns"),
    "only system": (
        {"id": "7", "conversations": [{"from": "system", "value": "q"}]},
        "malformed record",
        "there are only system turns",
    ),
    "no text": ({"id": "7", "conversations": [{"from": "human"}]}, "malformed record", "turn 0 has no role or no text"),
    "no object": ({"id": "7", "conversations": ["hi"]}, "malformed record", "turn 0 is not an object: 'hi'"),
    "image a number": (ask("<image>", image=7), "malformed record", "a path of a picture"),
    "tag in a name": (ask("<image>", image="https://x/<img>"), "malformed record", "contains an image tag"),
    "no question": (
        {"id": "7", "image": "a.jpg", "conversations": [{"from": "gpt", "value": "r"}]},
        "malformed record",
        "neither <image> nor a question",
    ),
    "part": (
        {"id": "7", "messages": [{"role": "user", "content": [{"type": "video"}]}]},
        "other modality",
        "nor a picture: 'video'",
    ),
    "a part without type": (
        {"id": "7", "messages": [{"role": "user", "content": [{"path": "a.jpg"}]}]},
        "malformed record",
        "neither text nor a picture: None",
    ),
    "videos": (ask("<video>q", videos=["v.mp4"]), "other modality", "the key 'videos'"),
    "audio": (ask("q", audio="a.wav"), "other modality", "the key 'audio'"),
    "a place for a video": (ask("<video>\nq"), "other modality", "turn 0 has <video>"),
    "a place for a video beside a picture": (
        ask("<image> and <video> here", image="a.jpg"),
        "other modality",
        "<video>",
    ),
    "chosen": (ask("q", chosen="a", rejected="b"), "preference record", "the key 'chosen'"),
    "rejected, no conversations": ({"id": "7", "prompt": "q", "rejected": "r"}, "preference record", "'rejected'"),
    "rejected, ms-swift": (ask("q", rejected_response="no"), "preference record", "'rejected_response'"),
    "kto": (ask("q", kto_tag=False), "preference record", "'kto_tag'"),
    "numbers beyond the pictures": (
        ask("<image1><image3>", images=["a.jpg", "b.jpg"]),
        "places of pictures",
        "2 pictures, but placeholders with the numbers 1, 3",
    ),
    "numbered and plain": (
        ask("<image1><image>", images=["a.jpg", "b.jpg"]),
        "places of pictures",
        "both numbered placeholders and <image>",
    ),
    "numbered, no picture": (ask("<image1>\nq"), "places of pictures", "turn 0 has <image1>"),
    "foreign, no picture": (ask("<|image_pad|>q"), "places of pictures", "turn 0 has <|image_pad|>"),
    "foreign, in an answer": (
        ask("<image>", "<ImageHere>", image="a.jpg"),
        "places of pictures",
        "turn 1 has <ImageHere>",
    ),
    "another picture in the text": (
        ask("<img>a.jpg</img>q", image="b.jpg"),
        "places of pictures",
        "it names the picture b.jpg, but its texts have <img>a.jpg</img>",
    ),
    "box, no objects": (ask("<image>", "<bbox>", image="a.jpg"), "objects", "turn 1 has <bbox>"),
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


@pytest.mark.parametrize(
    ("first", "column"),
    [
        ('{"id": 1, "conversations": oops}', 28),
        ('{"id": 1, "conversations": [{"fr', 33),
        ('{"id": 1' + "0" * 5000 + "}", 0),
        ('{"id": 1, "conversations": [', 0),
        ("oops", 1),
    ],
)
def test_a_damaged_first_line_is_left_out(folder, first, column):
    source, output = folder.parent / "in.jsonl", folder.parent / "out.json"
    source.write_text(f"{first}\n{json.dumps(ask('good'))}\n")
    report = convert_file(source, folder, output)
    assert len(json.loads(output.read_text())) == 1
    assert report.dropped == {"not JSON": 1}
    assert (f"line 1 column {column}:" if column else "line 1") in str(report)


def test_a_number_too_long_for_python_is_no_json(folder):
    (folder.parent / "in.json").write_text(f'[{{"id": {"1" * 5000}}}]')
    with pytest.raises(StreamError, match=r"in\.json: not valid JSON: Exceeds the limit .* at line 1 column 2"):
        convert_file(folder.parent / "in.json", folder, folder.parent / "out.json")


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
        ("[]", "it would have no samples"),
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
        ({"format": "xml"}, "format must be one of"),
        ({"user_role_name": "a", "assistant_role_name": "a"}, "must differ"),
        ({"box_format": "yx"}, "box_format"),
        ({"prompt": "Where?"}, "{label}"),
    ]:
        with pytest.raises(ValueError, match=reason):
            convert_file(source, folder, folder.parent / "out.json", **options)
    with pytest.raises(ValueError, match="would overwrite"):
        convert_file(source, folder, source)
    left_over = source.rename(folder.parent / "out.json.dropped.jsonl")
    with pytest.raises(ValueError, match="would overwrite"):
        convert_file(left_over, folder, folder.parent / "out.json")
    left_over.rename(source)
    with pytest.raises(ValueError, match="/dev/null is not a regular file"):
        convert_file(source, folder, "/dev/null")
    with pytest.raises(ValueError, match="is a folder"):
        convert_file(source, folder, folder)
    with pytest.raises(FileNotFoundError, match="no such file"):
        convert_file(folder.parent / "no.json", folder, folder.parent / "out.json")
    with pytest.raises(StreamError, match="coco must be an object"):
        convert_file(source, folder, folder.parent / "out.json", format="coco")


def test_a_format_that_is_given_is_the_only_one(folder):
    boxes = {"file_name": "a.jpg", "bbox": [0, 0, 1, 1], "width": 9, "height": 9, "sentences": ["x"]}
    assert len(converted(folder, [boxes, ask("q")])) == 2
    assert len(converted(folder, [boxes, ask("q")], format="refcoco")) == 1
    (only,) = converted(folder, [boxes, ask("q")], format="llava")
    assert texts(only)[0] == "q"
