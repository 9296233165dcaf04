"""Conversations of LLaVA and ShareGPT, on records as these have them. No MindSpore."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.datasets.convert.conversations import ConversationReader
from mindformers_qwenvl.datasets.convert.converter import convert_file
from mindformers_qwenvl.datasets.convert.picture_finder import PictureFinder
from mindformers_qwenvl.datasets.convert.tally import ConversionReport, UnusableError
from tests.support.convert_records import COCO_NAME, ask, converted, texts

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
    reader = ConversationReader(PictureFinder(tmp_path_factory.getbasetemp()), "user", "assistant", ConversionReport())
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
    pictures = PictureFinder(folder)
    assert pictures.find("000000000139.jpg") == "val2017/000000000139.jpg"
    assert pictures.find("a.jpg") == "a.jpg"
    assert pictures.find(str(folder / "b.jpg")) == str(folder / "b.jpg")
    assert pictures.find("https://example.com/x.jpg") == "https://example.com/x.jpg"
    assert pictures.find("data:image/png;base64,AA==") == "data:image/png;base64,AA=="
    assert PictureFinder(folder / "train2014").find("000000442786.jpg") == "COCO_train2014_000000442786.jpg"
    for name in ("1.jpg", "train2017/1.jpg", "gqa/a.jpg", "{}.jpg", "a\0.jpg", ""):
        with pytest.raises(UnusableError):
            pictures.find(name)
    with pytest.raises(FileNotFoundError, match=r"image_location .*nowhere: no such folder"):
        PictureFinder(folder / "nowhere")


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
