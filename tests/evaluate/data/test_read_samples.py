"""Each benchmark's file to samples: the official forms, those that the original converted, and clear errors."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest

from mindformers_qwenvl.evaluate.data import DataError, read_samples
from mindformers_qwenvl.evaluate.prompts import Asking, ask
from mindformers_qwenvl.evaluate.tasks import TASKS, find_task
from mindformers_qwenvl.pictures.images import ImageRefusedError, open_image
from tests.support.evaluation import BENCHMARKS, write_benchmark
from tests.support.golden import golden_set

PNG = golden_set("a56").image(0).read_bytes()


def samples_of(name, folder, **more):
    task, split = find_task(name)
    return read_samples(task, folder, folder.parent / "pictures", split=split, **more).samples


def picture(folder: Path, name: str) -> None:
    path = folder / "pictures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)


def saved(folder: Path, name: str, content) -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    return path


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


def test_the_splits_of_ai2d_need_their_list(tmp_path):
    picture(tmp_path, "images/3.png")
    (tmp_path / "ai2d/questions").mkdir(parents=True)
    row = {"questionId": "3.png-0", "answerTexts": ["a", "b"], "correctAnswer": 1}
    saved(tmp_path / "ai2d/questions", "3.png.json", {"imageName": "3.png", "questions": {"Which?": row}})
    assert [one.answers for one in samples_of("ai2d", tmp_path / "ai2d")] == [("b",)]
    with pytest.raises(FileNotFoundError, match=r"ai2d_test_ids\.csv.*--annotations"):
        samples_of("ai2d_test", tmp_path / "ai2d")
    ids = tmp_path / "ids.csv"
    ids.write_text("7\n", encoding="utf-8")
    assert len(samples_of("ai2d_train", tmp_path / "ai2d", annotations=ids)) == 1
    with pytest.raises(DataError, match="nothing to ask"):
        samples_of("ai2d_test", tmp_path / "ai2d", annotations=ids)
    saved(tmp_path / "ai2d/questions", "3.png.json", {"questions": {"Which?": {**row, "correctAnswer": 2}}})
    with pytest.raises(DataError, match="correctAnswer 2 of 2 answerTexts"):
        samples_of("ai2d", tmp_path / "ai2d")


def test_every_task_has_a_form():
    assert {find_task(one.task)[0].name for one in BENCHMARKS} | {"vqa", "captions", "grounding"} == set(TASKS)


def test_the_vqa_score_needs_all_answers(tmp_path):
    picture(tmp_path, "1.jpg")
    row = {"image": "data/vqav2/1.jpg", "question": "What?", "question_id": 7, "answer": "red"}
    path = saved(tmp_path, "vqav2_val.jsonl", [row])
    with pytest.raises(DataError, match=r"question 7 has one answer.*--annotations"):
        samples_of("vqav2_val", path)
    answers = {"annotations": [{"question_id": 7, "answers": [{"answer": "red"}] * 10}]}
    found = samples_of("vqav2_val", path, annotations=saved(tmp_path, "a.json", answers))
    assert found[0].answers == ("red",) * 10


def test_a_test_set_has_no_truth(tmp_path):
    picture(tmp_path, "test2015/COCO_test2015_000000000001.jpg")
    questions = {
        "data_subtype": "test-dev2015",
        "questions": [{"question_id": 1, "image_id": 1, "question": "What?"}],
    }
    [sample] = samples_of("vqav2_testdev", saved(tmp_path, "questions.json", questions))
    assert not sample.has_truth
    assert sample.images == ("test2015/COCO_test2015_000000000001.jpg",)
    assert sample.keys["question_id"] == 1


def test_pictures_that_are_not_there(tmp_path):
    rows = [{"image": f"{n}.jpg", "question": "?", "answers": ["a"] * 10} for n in range(5)]
    with pytest.raises(DataError, match=r"5 of 5 pictures are not in .*: 0\.jpg, 1\.jpg, 2\.jpg, \.\.\.; give the"):
        samples_of("okvqa", saved(tmp_path, "okvqa.jsonl", rows))


def test_a_picture_is_never_outside_of_its_folder(tmp_path):
    picture(tmp_path, "1.jpg")
    (tmp_path / "2.jpg").write_bytes(PNG)
    for name, found in (("../pictures/1.jpg", "1.jpg"), ("/etc/pictures/../1.jpg", "1.jpg")):
        path = saved(tmp_path, "a.jsonl", [{"image": name, "question": "?", "answer": "a"}])
        assert samples_of("ocrvqa", path)[0].images == (found,)
    path = saved(tmp_path, "a.jsonl", [{"image": "../2.jpg", "question": "?", "answer": "a"}])
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
    picture(tmp_path, "1.jpg")
    with pytest.raises(DataError, match=message):
        samples_of(task, saved(tmp_path, name, content))


def test_a_damaged_line(tmp_path):
    path = saved(tmp_path, "a.jsonl", [{"image": "1.jpg", "question": "?"}])
    path.write_text(path.read_text() + '{"image": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 is not JSON"):
        samples_of("okvqa", path)


def test_a_pickle_that_would_run_code(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([{"ref_id": Path("/")}]))
    with pytest.raises(DataError, match=r"it asks for pathlib\.\w+"):
        samples_of("refcoco_val", path)
    path.write_bytes(b"no pickle")
    with pytest.raises(DataError, match="not a pickle of plain data"):
        samples_of("refcoco_val", path)


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
        picture(tmp_path, f"v_{number}.jpg")
    prompt = "<img>x/v_0.jpg</img>\n<img>x/v_1.jpg</img>\nQuestion: What?\nOptions: A. a b\nB. c\nC. d\nD. e\nAnswer:"
    path = saved(tmp_path, "video.jsonl", [{"question_id": "v0", "prompt": prompt, "answer": "B"}])
    [sample] = samples_of("seed_bench", path)
    assert sample.choices == ("a b", "c", "d", "e")
    assert sample.right == 1
    asked = ask(sample, Asking.of(TASKS["seed_bench"]))
    assert asked.text.startswith("<img>1</img>\n<img>2</img>\nQuestion: What?\nOptions: A. a b\n")
    assert asked.pictures == {"1": "v_0.jpg", "2": "v_1.jpg"}


def test_names_of_tasks():
    assert [find_task(name)[1] for name in ("refcoco_testA", "refcoco+_val", "gqa", "chartqa_test_human")] == [
        "testA",
        "val",
        "",
        "test_human",
    ]
    assert find_task("ai2diagram_test")[0].name == "ai2d"
    assert find_task("scienceqa_test_img")[0].name == "scienceqa_img"
    with pytest.raises(ValueError, match=r"no task 'mmmu'; there are flickr30k, nocaps"):
        find_task("mmmu")
