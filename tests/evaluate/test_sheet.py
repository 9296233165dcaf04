"""worst.png: which samples are on it, and that their boxes and texts are drawn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.scoring import Answered, score_answers
from mindformers_qwenvl.evaluate.sheet import SAID, TRUE, worst_rows, write_sheet
from mindformers_qwenvl.evaluate.tasks import TASKS


def colours(path):
    with Image.open(path) as sheet:
        return {
            f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(np.asarray(sheet.convert("RGB")).reshape(-1, 3), axis=0)
        }


def test_the_worst_come_first():
    rows = [{"score": 1.0, "iou": 0.9}, {"score": 0.0, "iou": 0.4}, {"score": 0.0, "iou": None}, {"score": 0.5}]
    assert worst_rows(rows, 3) == [2, 1, 3]
    losses = [{"score": 0.0, "answer": 0, "losses": [2.0, 1.0]}, {"score": 0.0, "answer": 0, "losses": [5.0, 1.0]}]
    assert worst_rows(losses) == [1, 0]  # the surer of a wrong choice, the worse


def test_boxes_are_drawn_in_both_colours(tmp_path):
    Image.new("RGB", (100, 50), "gray").save(tmp_path / "a.png")
    sample = Sample("a", ("a.png",), "the thing", box=(10, 10, 60, 40), size=(100, 50))
    answered = [Answered(sample, "(500,200),(900,800)")]
    scores = score_answers(TASKS["refcoco"], answered)
    write_sheet(tmp_path / "worst.png", [sample], scores.rows, root=tmp_path)
    assert {SAID, TRUE} <= colours(tmp_path / "worst.png")
    # The top edge of the model's box: half of the picture's width from the left, a fifth of its height from the top.
    with Image.open(tmp_path / "worst.png") as sheet:
        pixels = np.asarray(sheet)
    red = np.argwhere((pixels == (0xD6, 0x27, 0x28)).all(-1))
    picture = red[red[:, 0] < 12 + 6 + 220]
    (top, left), (bottom, right) = picture.min(0), picture.max(0)
    assert (left - 12 - 40, right - 12 - 40) == (110, 198)
    assert bottom - top == round(0.6 * 110)


def test_a_picture_that_cannot_be_opened_leaves_its_place(tmp_path):
    sample = Sample("a", ("missing.png",), "Which?", answers=("red",))
    rows = score_answers(TASKS["ocrvqa"], [Answered(sample, "blue\x00")]).rows
    write_sheet(tmp_path / "worst.png", [sample], rows, root=tmp_path)
    assert "#cccccc" in colours(tmp_path / "worst.png")
