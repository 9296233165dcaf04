"""Each benchmark's file to samples: the official forms, those that the original converted, and clear errors."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.evaluate.data import DataError, read_samples
from mindformers_qwenvl.evaluate.prompts import Asking, ask
from mindformers_qwenvl.evaluate.tasks import TASKS, find_task
from mindformers_qwenvl.pictures.images import ImageRefusedError, open_image
from tests.support.evaluation import BENCHMARKS, PNG, samples_of, write_benchmark, write_picture, write_rows


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.name)
def test_every_form(benchmark, tmp_path):
    path, more = write_benchmark(benchmark, tmp_path)
    task, split = find_task(benchmark.task)
    loaded = read_samples(task, path, tmp_path / "pictures", split=split, **more)
    assert [sample.id for sample in loaded.samples] == benchmark.ids
    assert all(sample.has_truth and sample.images for sample in loaded.samples)
    text = ask(loaded.samples[0], Asking.of(task)).text
    assert text == benchmark.text
    assert loaded.left_out == benchmark.left_out


def test_every_task_has_a_form():
    assert {find_task(one.task)[0].name for one in BENCHMARKS} | {"vqa", "captions", "grounding"} == set(TASKS)


def test_pictures_that_are_not_there(tmp_path):
    rows = [{"image": f"{n}.jpg", "question": "?", "answers": ["a"] * 10} for n in range(5)]
    with pytest.raises(DataError, match=r"5 of 5 pictures are not in .*: 0\.jpg, 1\.jpg, 2\.jpg, \.\.\.; give the"):
        samples_of("okvqa", write_rows(tmp_path, "okvqa.jsonl", rows))


def test_a_picture_is_never_outside_of_its_folder(tmp_path):
    write_picture(tmp_path, "1.jpg")
    (tmp_path / "2.jpg").write_bytes(PNG)
    for name, found in (("../pictures/1.jpg", "1.jpg"), ("/etc/pictures/../1.jpg", "1.jpg")):
        path = write_rows(tmp_path, "a.jsonl", [{"image": name, "question": "?", "answer": "a"}])
        assert samples_of("ocrvqa", path)[0].images == (found,)
    path = write_rows(tmp_path, "a.jsonl", [{"image": "../2.jpg", "question": "?", "answer": "a"}])
    [sample] = samples_of("ocrvqa", path)
    with pytest.raises(ImageRefusedError):  # it is there, and is not opened
        open_image(sample.images[0], root=tmp_path / "pictures")


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("okvqa", "a.json", {"rows": []}, r"a\.json: not in a known form; the known forms are the original's"),
        ("okvqa", "a.jsonl", [{"image": "1.jpg"}], r"record 1: no question; there are image"),
        ("okvqa", "a.jsonl", [{"image": "1.jpg", "question": 5}], r"record 1: question must be str, got 5"),
        ("okvqa", "a.jsonl", [], r"a\.jsonl: empty"),
        ("okvqa", "a.json", [], r"nothing to ask"),
        ("flickr30k", "a.json", {"images": [{"file": "1.jpg"}]}, r"image 1: no id; there are file"),
        (
            *("flickr30k", "a.json"),
            {"images": [], "annotations": [{"image_id": 5, "caption": "a cat"}]},
            r"captions of image 5, which is not among the images",
        ),
        (
            "refcoco",
            "a.jsonl",
            [{"image": "1.jpg", "sent": "a", "bbox": [1, 2, 3], "width": 5, "height": 5}],
            "four numbers",
        ),
        ("refcoco", "a.jsonl", [{"image": "1.jpg", "sent": "a", "bbox": [1] * 4, "width": 0, "height": 5}], "above 0"),
        ("refcoco", "a.json", [{"ref_id": 1, "sentences": []}], r"the boxes are in instances\.json.*--annotations"),
        (
            "mmbench",
            "a.jsonl",
            [{"image": "1.jpg", "question": "?", "choices": ["a"]}],
            "expected 2 to 10 choices, got 1",
        ),
        (
            *("mmbench", "a.jsonl"),
            [{"image": "1.jpg", "question": "?", "choices": ["a", "b"], "answer": "C"}],
            r"letter or number of one of 2 choices",
        ),
        ("scienceqa_img", "a.json", {"1": {"split": "train"}}, "no problems of the split 'test'"),
        ("vqa", "a.jsonl", [{"image": "1.jpg", "question": "?", "id": 1}] * 2, "two records have the id 1"),
        ("vqa", "a.jsonl", [{"image": "1.jpg", "question": "?", "id": True}], "id must be a text or a whole number"),
    ],
)
def test_clear_errors(task, name, content, message, tmp_path):
    write_picture(tmp_path, "1.jpg")
    with pytest.raises(DataError, match=message):
        samples_of(task, write_rows(tmp_path, name, content))


def test_a_damaged_line(tmp_path):
    path = write_rows(tmp_path, "a.jsonl", [{"image": "1.jpg", "question": "?"}])
    path.write_text(path.read_text() + '{"image": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 is not JSON"):
        samples_of("okvqa", path)
