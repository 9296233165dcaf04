"""Multiple choice: orders of options, and several pictures."""

from __future__ import annotations

import base64

import pytest

from mindformers_qwenvl.evaluate.data import DataError
from mindformers_qwenvl.evaluate.prompts import Asking, ask
from mindformers_qwenvl.evaluate.tasks import TASKS
from tests.support.evaluation import PNG, samples_of, write_picture, write_rows


def test_an_order_of_options_takes_the_picture_from_above(tmp_path):
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "image"]
    encoded = base64.b64encode(PNG).decode()
    rows = [
        ["5", "Which?", "", "red", "blue", "", "", "A", encoded],
        ["1000005", "Which?", "", "blue", "red", "", "", "B", "5"],
    ]
    path = tmp_path / "mmbench.tsv"
    (tmp_path / "pictures").mkdir()
    path.write_text("\n".join("\t".join(row) for row in [columns, *rows]), encoding="utf-8")
    first, second = samples_of("mmbench", path)
    assert first.images == second.images
    assert first.images[0].startswith("data:image/png;base64,")
    assert first.group == second.group == "5"
    assert (first.right, second.right) == (0, 1)
    rows[1][-1] = "6"
    path.write_text("\n".join("\t".join(row) for row in [columns, *rows]), encoding="utf-8")
    with pytest.raises(DataError, match="line 3: the picture is that of row 6, which is not above it"):
        samples_of("mmbench", path)


def test_several_pictures_in_a_question(tmp_path):
    for number in range(2):
        write_picture(tmp_path, f"v_{number}.jpg")
    prompt = "<img>x/v_0.jpg</img>\n<img>x/v_1.jpg</img>\nQuestion: What?\nOptions: A. a b\nB. c\nC. d\nD. e\nAnswer:"
    path = write_rows(tmp_path, "video.jsonl", [{"question_id": "v0", "prompt": prompt, "answer": "B"}])
    [sample] = samples_of("seed_bench", path)
    assert sample.choices == ("a b", "c", "d", "e")
    assert sample.right == 1
    asked = ask(sample, Asking.of(TASKS["seed_bench"]))
    assert asked.text.startswith("<img>1</img>\n<img>2</img>\nQuestion: What?\nOptions: A. a b\n")
    assert asked.pictures == {"1": "v_0.jpg", "2": "v_1.jpg"}
