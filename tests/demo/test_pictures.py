"""The sheet of answers: what is on it, in which order, in which colours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageColor

from mindformers_qwenvl.demo import pictures, shapes
from mindformers_qwenvl.demo.score import mark

TRUE_BOX = "<ref>red ring</ref><box>(250,250),(750,750)</box>"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return json.loads(shapes.write_dataset(tmp_path_factory.mktemp("demo") / "test", 30, 3, shapes.TOPICS).read_text())


def sheet(records, answers, path, monkeypatch):
    """The figure and its PNG."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    marks = [mark(record, answer) for record, answer in zip(records, answers, strict=True)]
    pictures.save_answers(records, answers, marks, path)
    return figures[0], Image.open(path)


def words(axes) -> str:
    return " ".join(text.get_text() for text in axes.texts)


def test_marks():
    box = {"topic": "box", "answer": TRUE_BOX}
    right = mark(box, "<ref>red ring</ref><box>(250,250),(750,700)</box>")
    assert right.right and right.box_iou == pytest.approx(0.9) and right.said.y2 == 700 and right.true.y2 == 750
    wrong = mark(box, "<box>(0,0),(300,300)</box>")
    assert not wrong.right and 0 < wrong.box_iou < 0.5
    silent = mark(box, "no idea")
    assert (silent.right, silent.box_iou, silent.said) == (False, 0.0, None)
    assert mark({"topic": "colour", "answer": "red"}, " red\n").right
    assert not mark({"topic": "colour", "answer": "red"}, "blue").right


def test_wrong_answers_come_first_and_are_marked(records, tmp_path, monkeypatch):
    answers = [record["answer"] for record in records]
    answers[9], answers[29] = "mauve", "<ref>red ring</ref><box>(0,0),(50,50)</box>"
    figure, picture = sheet(records, answers, tmp_path / "answers.png", monkeypatch)
    assert "28 of 30 answers about new pictures are right" in figure.texts[0].get_text()
    assert "20 of them are shown, the wrong ones first" in figure.texts[1].get_text()
    assert len(figure.axes) == 20 and min(picture.size) > 1000
    assert words(figure.axes[0]) == f"✗  mauve (it is {records[9]['answer']})"
    assert words(figure.axes[1]).startswith("✗  red ring, IoU 0.")
    assert all(words(axes).startswith("✓") for axes in figure.axes[2:])
    colours = set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()))
    assert {ImageColor.getrgb(pictures.RIGHT), ImageColor.getrgb(pictures.WRONG)} <= colours


def test_the_true_box_stands_beside_that_of_the_answer(records, tmp_path, monkeypatch):
    record = next(record for record in records if record["topic"] == "box")
    said = "<ref>a</ref><box>(10,20),(300,400)</box>"
    figure, _ = sheet([record] * 2, [said, "nothing to see here at all"], tmp_path / "answers.png", monkeypatch)
    assert "2 of them are shown" in figure.texts[1].get_text()
    first, second = figure.axes
    true = mark(record, "").true
    corners = [
        (*patch.get_xy(), *(patch.get_xy() + np.array([patch.get_width(), patch.get_height()])))
        for patch in first.patches
    ]
    assert corners == [(10, 20, 300, 400), true.coordinates]
    assert [patch.get_linestyle() == "solid" for patch in first.patches] == [True, False]
    assert len(second.patches) == 1 and words(second) == "✗  nothing to see…, IoU 0.00"


def test_loss_curve(tmp_path):
    pictures.save_loss_curve([4.0, 2.0, 1.0], tmp_path / "loss.png")
    assert min(Image.open(tmp_path / "loss.png").size) > 400
