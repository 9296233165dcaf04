"""The folder of AI2D, and the list of its test pictures."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.evaluate.data import DataError
from tests.support.evaluation import samples_of, write_picture, write_rows


def test_the_splits_of_ai2d_need_their_list(tmp_path):
    write_picture(tmp_path, "images/3.png")
    (tmp_path / "ai2d/questions").mkdir(parents=True)
    row = {"questionId": "3.png-0", "answerTexts": ["a", "b"], "correctAnswer": 1}
    write_rows(tmp_path / "ai2d/questions", "3.png.json", {"imageName": "3.png", "questions": {"Which?": row}})
    assert [one.answers for one in samples_of("ai2d", tmp_path / "ai2d")] == [("b",)]
    with pytest.raises(FileNotFoundError, match=r"ai2d_test_ids\.csv.*--annotations"):
        samples_of("ai2d_test", tmp_path / "ai2d")
    ids = tmp_path / "ids.csv"
    ids.write_text("7\n", encoding="utf-8")
    assert len(samples_of("ai2d_train", tmp_path / "ai2d", annotations=ids)) == 1
    with pytest.raises(DataError, match="nothing to ask"):
        samples_of("ai2d_test", tmp_path / "ai2d", annotations=ids)
    write_rows(tmp_path / "ai2d/questions", "3.png.json", {"questions": {"Which?": {**row, "correctAnswer": 2}}})
    with pytest.raises(DataError, match="correctAnswer 2 of 2 answerTexts"):
        samples_of("ai2d", tmp_path / "ai2d")
