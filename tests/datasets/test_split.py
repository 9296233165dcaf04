"""A held-out part without overlap."""

from __future__ import annotations

import json
import re

import pytest

from mindformers_qwenvl.datasets.split import split_file


def conversations(tmp_path, pictures):
    """A record for each set of pictures."""
    records = []
    for number, names in enumerate(pictures):
        images = "".join(f"Picture {n}: <img>{name}.png</img>\n" for n, name in enumerate(names, 1))
        turns = [{"from": "user", "value": f"{images}Which, {number}?"}, {"from": "assistant", "value": "this"}]
        records.append({"id": number, "conversations": turns})
    path = tmp_path / "all.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(records):
    return set(re.findall("<img>(.*?)</img>", json.dumps(records)))


def test_no_picture_is_in_both_parts(tmp_path):
    # 0 and 1 share a picture, 1 and 2 another: the three stay together
    path = conversations(tmp_path, [["a", "b"], ["b", "c"], ["c"], *([f"p{n // 2}"] for n in range(97))])
    split = split_file(path, 0.1)
    training, held_out = read(split.training), read(split.held_out)
    assert not names(training) & names(held_out)
    assert len(training) + len(held_out) == 100
    assert abs(len(held_out) - 10) <= 1
    assert (split.training_records, split.held_out_records) == (len(training), len(held_out))
    assert sorted(record["id"] for record in training + held_out) == list(range(100))


def test_the_choice_depends_on_the_seed_and_not_on_the_order(tmp_path):
    pictures = [[f"p{n}"] for n in range(50)]
    first = names(read(split_file(conversations(tmp_path, pictures), 0.2).held_out))
    again = names(read(split_file(conversations(tmp_path, pictures[::-1]), 0.2).held_out))
    other = names(read(split_file(conversations(tmp_path, pictures), 0.2, seed=1).held_out))
    assert first == again != other
    assert len(first) == len(other) == 10


def test_the_same_text_twice_is_an_overlap(tmp_path):
    turns = [{"from": "user", "value": "Hello"}, {"from": "assistant", "value": "Hi"}]
    others = [[{**turns[0], "value": f"Hello {n}"}, turns[1]] for n in range(8)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"conversations": one}) + "\n" for one in [turns, turns, *others]))
    split = split_file(path, 0.3)
    first = [{json.dumps(record) for record in read(part)} for part in (split.training, split.held_out)]
    assert not first[0] & first[1]


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_out_of_range(share, tmp_path):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        split_file(conversations(tmp_path, [["a"], ["b"]]), share)


def test_all_records_belong_together(tmp_path):
    path = conversations(tmp_path, [["a"], ["a"], ["a"]])
    with pytest.raises(ValueError, match="3 records, in 1 groups"):
        split_file(path, 0.02)
    assert [file.name for file in tmp_path.iterdir()] == ["all.json"]
