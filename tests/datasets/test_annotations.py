"""Annotation files: every form, every fault. No MindSpore."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from mindformers_qwenvl.datasets.annotations import (
    AnnotationError,
    AnnotationFile,
    SampleNote,
    encode_sample,
    split_note,
)
from tests.support.annotation_files import record, write_lines, write_list


def test_every_form_reads_the_same(annotations):
    file = AnnotationFile(annotations)
    assert len(file) == 7
    for number in (6, 0, 3):
        where, turns = file.sample(number)
        assert turns == [("user", f'问题 {number}\n\t"q"'), ("assistant", f"a{number} 😀")]
        assert str(annotations) in where and f"sample {number}" in where and f"id 'identity_{number}'" in where
    with pytest.raises(IndexError):
        file.record(7)


def test_jsonl_names_the_line(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [record(0), record(1)], end="\n\n\n")
    assert "sample 1 (line 4), id 'identity_1'" in AnnotationFile(path).sample(1)[0]


def test_a_record_without_id_is_named_by_number(tmp_path):
    path = write_list(tmp_path / "a.json", [{"conversations": []}])
    assert AnnotationFile(path).sample(0) == (f"annotation file {path}, sample 0", [])


def test_other_keys(tmp_path):
    path = write_list(tmp_path / "a.json", [{"talk": [{"role": "user", "text": "hi"}]}])
    file = AnnotationFile(path, data_field="talk", from_keyword="role", value_keyword="text")
    assert file.sample(0)[1] == [("user", "hi")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[]", "no samples"),
        (b"hello", "starts with b'h'"),
        (b'[{"conversations": [}]', "not valid JSON: .* line 1 column"),
        (b'[{"conversations": []}', "not valid JSON"),
        (b'["\xff"]', "not UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path, content, reason):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"bad\.json: {reason}"):
        AnnotationFile(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such file"):
        AnnotationFile(tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match="a folder"):
        AnnotationFile(tmp_path)


@pytest.mark.parametrize("line", [b'{"id": 1, "conversations": [', b'{"a": "\xff"}', b"nonsense"])
def test_a_bad_line_is_named(tmp_path, line):
    path = write_lines(tmp_path / "bad.jsonl", [record(0)])
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")
    file = AnnotationFile(path)
    assert file.sample(0)[1][0][0] == "user"
    with pytest.raises(AnnotationError, match=r"bad\.jsonl, sample 1 \(line 2\): not valid JSON"):
        file.sample(1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "found list"),
        ({"id": 3}, r"id 3: expected an object with a list 'conversations', found .*\['id'\]"),
        ({"id": 3, "conversations": "hi"}, "a list 'conversations'"),
        ({"id": 3, "conversations": ["hi"]}, "turn 0: .* found 'hi'"),
        (
            {"id": 3, "conversations": [{"from": "user", "value": "x"}, {"from": "user"}]},
            "turn 1: .*'from' and 'value'",
        ),
        ({"id": 3, "conversations": [{"from": "user", "value": 5}]}, "turn 0"),
        ({"id": 3, "conversations": [{"from": "user", "value": ["x" * 5000]}]}, r"turn 0: .{0,400}$"),
    ],
)
def test_bad_records_are_named(tmp_path, bad, reason):
    file = AnnotationFile(write_list(tmp_path / "data.json", [record(0), bad]))
    with pytest.raises(AnnotationError, match=rf"data\.json, sample 1.*{reason}"):
        file.sample(1)


def test_a_bad_record_of_a_list_is_named(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('[{"id": 0, "conversations": []}, {"id": nope}]')
    file = AnnotationFile(path)
    assert file.sample(0)[1] == []
    with pytest.raises(AnnotationError, match=r"bad\.json, sample 1: not valid JSON: Expecting value at column"):
        file.sample(1)


def test_copies_read_by_themselves(annotations):
    file = AnnotationFile(annotations)
    for other in (copy.deepcopy(file), pickle.loads(pickle.dumps(file))):
        assert other.record(5) == file.record(5)
        assert other._file.fileno() != file._file.fileno()


def test_note_round_trip():
    turns = [("user", "a\0b\n\u2028é"), ("assistant", "")]
    note = SampleNote("file é.json, sample 3", "/pictures")
    stock = [[turn["from"], turn["value"]] for turn in json.loads(encode_sample(turns, note))]
    assert split_note(stock) == (note, turns)
    assert split_note(np.array([["user", "q"], ["assistant", "r"]])) == (None, [("user", "q"), ("assistant", "r")])
    assert split_note([]) == (None, [])
