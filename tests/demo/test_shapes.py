import json

import numpy as np
from PIL import Image

from mindformers_qwenvl.demo import shapes
from mindformers_qwenvl.demo.score import mark, score
from mindformers_qwenvl.grounding import parse


def test_dataset_is_the_same_for_the_same_seed_and_another_for_another(tmp_path):
    first, again, other = (
        shapes.write_dataset(tmp_path / name / "set", 8, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    pictures = [
        [np.asarray(Image.open(path)) for path in sorted(file.with_suffix("").glob("*.png"))]
        for file in (first, again, other)
    ]
    assert all((a == b).all() for a, b in zip(pictures[0], pictures[1], strict=True))
    assert any((a != c).any() for a, c in zip(pictures[0], pictures[2], strict=True))


def test_records_are_qwenvl_conversations_whose_pictures_exist(tmp_path):
    records = json.loads(shapes.write_dataset(tmp_path / "set", 9, 0, shapes.TOPICS).read_text())
    assert [record["topic"] for record in records] == list(shapes.TOPICS) * 3
    for record in records:
        user, assistant = record["conversations"]
        image = user["value"].split("<img>")[1].split("</img>")[0]
        assert (tmp_path / image).is_file()
        assert (user["from"], assistant["from"], assistant["value"]) == ("user", "assistant", record["answer"])


def test_shape_is_where_its_box_says():
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = shapes.draw_shape(rng)
        pixels = np.asarray(shapes.paint(shape, rng), np.int16)
        background = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
        rows, columns = np.nonzero(np.abs(pixels - background).max(axis=2) > 60)
        x1, y1, x2, y2 = shape.box
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(found) - (x1, y1, x2, y2)).max() <= 4
        (box,) = parse(shapes.ask(shape, "box").answer).boxes
        assert np.abs(np.array(box.to_pixels(shapes.SIZE, shapes.SIZE)) - shape.box).max() <= 1


def test_score():
    records = [
        {"topic": "colour", "answer": "red"},
        {"topic": "shape", "answer": "ring"},
        {"topic": "box", "answer": "<box>(0,0),(500,500)</box>"},
        {"topic": "box", "answer": "<box>(0,0),(500,500)</box>"},
    ]

    def scored(answers):
        return score(records, [mark(record, answer) for record, answer in zip(records, answers, strict=True)])

    perfect = scored([record["answer"] for record in records])
    assert perfect.passed and (perfect.colour, perfect.shape, perfect.box_iou) == (1, 1, 1)
    poor = scored(["red", "square", "<box>(0,0),(500,500)</box>", "no idea"])
    assert (poor.colour, poor.shape, poor.box_iou, poor.passed) == (1, 0, 0.5, False)
