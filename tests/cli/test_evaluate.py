"""`mindformers-qwenvl evaluate --score`: answers that exist already, without a model or MindSpore."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from tests.support.evaluation import golden_corpus, golden_file, golden_rows


def scored(task, file, *more):
    assert main(["evaluate", "--task", task, "--score", str(file), "--output", "out", *more]) == 0
    rows = [json.loads(line) for line in Path("out/scores.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, json.loads(Path("out/summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("task", "file", "key", "more"),
    [
        ("vqav2_val", "vqa_score", "score", []),
        ("docvqa", "anls", "score", []),
        ("chartqa_test_human", "relaxed_accuracy", "score", ["--as-published"]),
        ("ocrvqa", "exact_match", "score", []),
        ("gqa", "gqa", "score", []),
        ("refcoco_val", "grounding", "correct", []),
        ("flickr30k", "captions", "cider", []),
    ],
)
def test_golden_files(task, file, key, more, capsys):
    golden = golden_rows(file)
    rows, summary = scored(task, golden_file(file), *more)
    assert [row["score"] for row in rows] == pytest.approx([row[key] for row in golden], abs=1e-6)
    assert summary["samples"] == len(golden)
    assert summary["score"] == pytest.approx(sum(row[key] for row in golden) / len(golden), abs=1e-6)
    assert summary["published"]["source"] and "newer" in summary["published"]["note"]
    assert "published" in capsys.readouterr().out


def test_captions_of_the_whole():
    _, summary = scored("nocaps", golden_file("captions"))
    whole = golden_corpus()
    assert summary["CIDEr"] == pytest.approx(whole["CIDEr"], abs=1e-6)
    assert summary["Bleu"] == pytest.approx(whole["Bleu"], abs=1e-6)
    assert summary["ROUGE_L"] == pytest.approx(whole["ROUGE_L"], abs=1e-6)
    assert summary["tokenizer"]


def test_relaxed_accuracy_says_of_what_it_takes_five_percent():
    golden = golden_rows("relaxed_accuracy")
    rows, summary = scored("chartqa", golden_file("relaxed_accuracy"))
    assert summary["tolerance"] == "5% of the right number"
    assert [row["as_published"] for row in rows] == [row["score"] for row in golden]
    assert [row["score"] for row in rows] != [row["score"] for row in golden]
    _, published = scored("chartqa", golden_file("relaxed_accuracy"), "--as-published")
    assert published["tolerance"] == "5% of the prediction, as published"


def test_choices_by_their_losses():
    golden = golden_rows("choice_a56")
    rows, summary = scored("scienceqa_img", golden_file("choice_a56"))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in golden]
    assert summary["score"] == sum(row["prediction"] == row["answer"] for row in golden) / len(golden)


@pytest.mark.parametrize(("task", "file"), [("docvqa", "anls"), ("refcoco", "grounding"), ("flickr30k", "captions")])
def test_scores_can_be_scored_again(task, file):
    rows, first = scored(task, golden_file(file))
    Path("again.jsonl").write_bytes(Path("out/scores.jsonl").read_bytes())
    again, second = scored(task, "again.jsonl")
    assert again == rows
    assert second["score"] == first["score"]


def test_questions_in_several_orders():
    rows = [
        {"index": index, "prediction": said, "answer": right, "choices": list(order)}
        for index, said, right, order in [
            (1, 0, 0, "xy"), (1000001, 1, 1, "yx"),  # right in both
            (2, 0, 0, "xy"), (1000002, 0, 1, "yx"), (2000002, 0, 0, "xy"),  # right in two of three
            (3, 1, 0, "xy"),
        ]
    ]  # fmt: skip
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, summary = scored("mmbench", "rows.jsonl")
    assert summary["questions"] == 3
    assert summary["circular"] == summary["score"] == pytest.approx(1 / 3)
    assert summary["majority"] == pytest.approx(2 / 3)
    assert summary["single"] == pytest.approx(4 / 6)


def test_mme_by_subtask():
    rows = [
        {"answer": said, "answers": [right], "group": group, "image": image}
        for said, right, group, image in [
            ("Yes, it is.", "Yes", "color", "1.jpg"), ("No", "No", "color", "1.jpg"),
            ("Yes", "Yes", "color", "2.jpg"), ("I think not", "No", "color", "2.jpg"),
            ("no.", "Yes", "code_reasoning", "3.jpg"), ("no.", "No", "code_reasoning", "3.jpg"),
        ]
    ]  # fmt: skip
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, summary = scored("mme", "rows.jsonl")
    assert summary["by_group"]["color"] == {"accuracy": 75, "accuracy_plus": 50, "score": 125}
    assert (summary["perception"], summary["cognition"], summary["score"]) == (125, 50, 175)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("okvqa", {"answer": "a"}, r"row 1: no answers; there are answer\. okvqa takes rows like"),
        ("okvqa", {"answer": 5, "answers": ["a"]}, "answer must be str, got 5"),
        ("okvqa", {"answer": "a", "answers": []}, "row 1: no answers"),
        ("refcoco", {"answer": "a", "answers": ["a"]}, "no bbox"),
        ("refcoco", {"answer": "a", "bbox": [1], "width": 1, "height": 1}, "bbox must be four numbers"),
        ("flickr30k", {"caption": "a"}, "no references"),
        ("mmbench", {"answer": 1}, "neither losses nor a prediction"),
    ],
)
def test_rows_of_another_form(task, row, message, capsys):
    import re

    Path("rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert main(["evaluate", "--task", task, "--score", "rows.jsonl"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_not_a_number_is_null():
    """An IoU of two boxes without an area."""
    row = {"answer": "", "bbox": [1, 1, 1, 1], "width": 5, "height": 5}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    rows, summary = scored("refcoco", "rows.jsonl")
    assert rows[0]["iou"] is None
    assert math.isfinite(summary["mean_iou"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "mmmu", "--score", "x"], "no task 'mmmu'; there are flickr30k"),
        (["--task", "gqa"], "one of the arguments --data --score is required"),
        (["--task", "gqa", "--data", "x"], "--data needs --model DIR (or --base-url URL) and --output DIR"),
        (["--task", "gqa", "--score", "x", "--model", "y"], "leave --model and --base-url out"),
        (["--task", "gqa", "--data", "x", "--model", "m", "--output", "o", "--few-shot", "2"], "be given together"),
        (
            ["--task", "gqa", "--data", "x", "--model", "m", "--output", "o", "--limit", "0"],
            "--limit must be at least 1",
        ),
    ],
)
def test_bad_usage(words, message, usage_error):
    assert message in usage_error("evaluate", *words)


def test_neither_mindspore_nor_mindformers_is_imported():
    words = ["evaluate", "--task", "gqa", "--score", str(golden_file("gqa")), "--output", "out"]
    code = (
        "import sys\nfrom mindformers_qwenvl.cli import main\n"
        f"assert main({words!r}) == 0\n"
        "print([name for name in ('mindspore', 'mindformers', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
