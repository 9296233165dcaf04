"""Questions with the answers of several people, and without any."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.evaluate.data import DataError
from tests.support.evaluation import samples_of, write_picture, write_rows


def test_the_vqa_score_needs_all_answers(tmp_path):
    write_picture(tmp_path, "1.jpg")
    row = {"image": "data/vqav2/1.jpg", "question": "What?", "question_id": 7, "answer": "red"}
    path = write_rows(tmp_path, "vqav2_val.jsonl", [row])
    with pytest.raises(DataError, match=r"question 7 has one answer.*--annotations"):
        samples_of("vqav2_val", path)
    answers = {"annotations": [{"question_id": 7, "answers": [{"answer": "red"}] * 10}]}
    found = samples_of("vqav2_val", path, annotations=write_rows(tmp_path, "a.json", answers))
    assert found[0].answers == ("red",) * 10


def test_a_test_set_has_no_truth(tmp_path):
    write_picture(tmp_path, "test2015/COCO_test2015_000000000001.jpg")
    questions = {
        "data_subtype": "test-dev2015",
        "questions": [{"question_id": 1, "image_id": 1, "question": "What?"}],
    }
    [sample] = samples_of("vqav2_testdev", write_rows(tmp_path, "questions.json", questions))
    assert not sample.has_truth
    assert sample.images == ("test2015/COCO_test2015_000000000001.jpg",)
    assert sample.keys["question_id"] == 1
