"""Golden rows of the evaluation (tests/golden/eval), and tiny files in the forms of the benchmarks."""

from __future__ import annotations

import base64
import json
import pickle
import shutil
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.data import read_samples
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import find_task
from tests.support.golden import GOLDEN, golden_set

EVAL = GOLDEN / "eval"
PNG = golden_set("a56").image(0).read_bytes()


def golden_file(name: str) -> Path:
    return EVAL / f"{name}.jsonl"


@cache
def golden_rows(name: str) -> list[dict[str, Any]]:
    """The rows of tests/golden/eval/NAME.jsonl; README.md there says what they are."""
    return [json.loads(line) for line in golden_file(name).read_text(encoding="utf-8").splitlines()]


def golden_corpus() -> dict[str, Any]:
    """CIDEr, BLEU and ROUGE-L of all captions together."""
    return json.loads((EVAL / "corpus.json").read_text(encoding="utf-8"))["captions"]


@dataclass(frozen=True)
class Benchmark:
    """A tiny file of a benchmark: `content` under the name `file`, or `files` of more content beside it.

    ids: of the samples that are to come out; text: what is asked of the first; pictures: below the folder of pictures.
    """

    name: str
    task: str
    file: str
    content: Any
    pictures: tuple[str, ...]
    ids: list[Any]
    text: str
    annotations: Any = None
    left_out: dict[str, int] = field(default_factory=dict)


def write_benchmark(benchmark: Benchmark, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write the files of a benchmark; returns its file and further arguments of `read_samples`."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(benchmark.pictures):
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(golden_set("a56").image(number % 4), path)
    if benchmark.file.endswith("/"):
        for name, text in benchmark.content.items():
            path = folder / benchmark.file / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder / benchmark.file, {}
    path = folder / benchmark.file
    path.write_bytes(_content(benchmark))
    if benchmark.annotations is None:
        return path, {}
    (folder / "annotations.json").write_text(json.dumps(benchmark.annotations), encoding="utf-8")
    return path, {"annotations": folder / "annotations.json"}


def samples_of(name: str, path: Path, **more) -> list[Sample]:
    """The samples of a file whose pictures are in the folder `pictures` beside it."""
    task, split = find_task(name)
    return read_samples(task, path, path.parent / "pictures", split=split, **more).samples


def write_picture(folder: Path, name: str) -> None:
    path = folder / "pictures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)


def write_rows(folder: Path, name: str, content: Any) -> Path:
    """`content` as JSON, or JSON Lines if `name` says so; a folder of pictures is beside it."""
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    (folder / "pictures").mkdir(exist_ok=True)
    return path


def _content(benchmark: Benchmark) -> bytes:
    if benchmark.file.endswith(".p"):
        return pickle.dumps(benchmark.content, protocol=2)
    if benchmark.file.endswith(".jsonl"):
        return "".join(json.dumps(row) + "\n" for row in benchmark.content).encode()
    if benchmark.file.endswith(".tsv"):
        return "\n".join("\t".join(row) for row in benchmark.content).encode()
    return json.dumps(benchmark.content).encode()


def _people(answer: str) -> list[dict[str, str]]:
    return [{"answer": answer}] * 10


COCO = "val2014/COCO_val2014_000000000009.jpg"
PICTURE = base64.b64encode(PNG).decode()
OPTIONS = "<img>1</img>Context: N/A\nQuestion: Which?\nOptions: A. red\nB. blue\nAnswer:"
BENCHMARKS = (
    Benchmark(
        *("vqa questions and annotations", "vqav2_val", "questions.json"),
        {"data_subtype": "val2014", "questions": [{"question_id": 90, "image_id": 9, "question": "What colour?"}]},
        *((COCO,), [90], "<img>1</img>What colour? Answer:"),
        annotations={"annotations": [{"question_id": 90, "image_id": 9, "answers": _people("red")}]},
    ),
    Benchmark(
        *("okvqa converted", "okvqa_val", "okvqa_val.jsonl"),
        [{"image": f"data/coco/{COCO}", "question": "What?", "question_id": 3, "answer": "red"}],
        *((COCO,), [3], "<img>1</img>What? Answer:"),
        annotations={"annotations": [{"question_id": 3, "answers": _people("red")}]},
    ),
    Benchmark(
        *("textvqa official", "textvqa_val", "TextVQA_0.5.1_val.json"),
        {"data": [{"question_id": 5, "image_id": "abc", "question": "What?", "answers": ["stop"] * 10}]},
        *(("train_images/abc.jpg",), [5], "<img>1</img>What? Answer:"),
    ),
    Benchmark(
        *("vizwiz official", "vizwiz_val", "val.json"),
        [{"image": "VizWiz_val_1.jpg", "question": "What?", "answers": _people("a can"), "answerable": 1}],
        *(("VizWiz_val_1.jpg",), [1], "<img>1</img>What? Answer:"),
    ),
    Benchmark(
        *("gqa official", "gqa_testdev_balanced", "testdev_balanced_questions.json"),
        {"201": {"imageId": "n1", "question": "Is it red?", "answer": "yes"}},
        *(("n1.jpg",), ["201"], "<img>1</img>Is it red? Answer:"),
    ),
    Benchmark(
        *("gqa converted", "gqa_testdev", "testdev_balanced.jsonl"),
        [{"image": "data/gqa/images/n1.jpg", "question": "Is it red?", "question_id": "201", "answer": "yes"}],
        *(("n1.jpg",), ["201"], "<img>1</img>Is it red? Answer:"),
    ),
    Benchmark(
        *("ocrvqa official", "ocrvqa_test", "dataset.json"),
        {
            "B1": {"imageURL": "http://x/1.png", "questions": ["Who?", "When?"], "answers": ["A", "B"], "split": 3},
            "B2": {"imageURL": "http://x/2.png", "questions": ["Who?"], "answers": ["C"], "split": 1},
        },
        *(("B1.png",), ["B1-0", "B1-1"], "<img>1</img>Who? Answer:"),
    ),
    Benchmark(
        *("ai2d official", "ai2d_test", "ai2d/"),
        {
            "ai2d_test_ids.csv": "10\n3\n",
            "questions/3.png.json": json.dumps(
                {
                    "imageName": "3.png",
                    "questions": {
                        "Which is red?": {"questionId": "3.png-0", "answerTexts": ["a", "b"], "correctAnswer": 1},
                        "What is A?": {
                            "questionId": "3.png-1",
                            "answerTexts": ["a", "b"],
                            "correctAnswer": 0,
                            "abcLabel": True,
                        },
                    },
                }
            ),
            "questions/10.png.json": json.dumps(
                {
                    "imageName": "10.png",
                    "questions": {
                        "What is B?": {
                            "questionId": "10.png-0",
                            "answerTexts": ["a", "b"],
                            "correctAnswer": 0,
                            "abcLabel": True,
                        }
                    },
                }
            ),
            "questions/4.png.json": json.dumps({"imageName": "4.png", "questions": {}}),
        },
        *(("images/3.png", "abc_images/10.png"), ["3.png-0", "10.png-0"]),
        "<img>1</img>Which is red?\nOptions: A. a\nB. b Answer:",
        left_out={"about letters in the diagram, with no picture in abc_images": 1},
    ),
    Benchmark(
        *("ai2d converted", "ai2diagram_test", "test.jsonl"),
        [{"image": "data/ai2d/1.png", "question": "Which? a b", "question_id": 1, "answer": "a"}],
        *(("1.png",), [1], "<img>1</img>Which? a b Answer:"),
    ),
    Benchmark(
        *("docvqa official", "docvqa_val", "val_v1.0.json"),
        {"data": [{"questionId": 4, "question": "Who?", "image": "documents/x_1.png", "answers": ["ITC", "itc"]}]},
        *(("documents/x_1.png",), [4], "<img>1</img>Who? Answer:"),
    ),
    Benchmark(
        *("chartqa official", "chartqa_test_human", "test_human.json"),
        [{"imgname": "1.png", "query": "How many?", "label": "14"}],
        *(("1.png",), [1], "<img>1</img>How many? Answer:"),
    ),
    Benchmark(
        *("flickr30k converted", "flickr30k", "flickr30k_karpathy_test.json"),
        {
            "images": [{"id": 7, "image": "data/flickr30k/images/7.jpg"}],
            "annotations": [{"image_id": 7, "caption": f"A dog {n}."} for n in range(5)],
        },
        *(("7.jpg",), [7], "<img>1</img>Describe the image in English:"),
    ),
    Benchmark(
        *("karpathy", "flickr30k", "dataset_flickr30k.json"),
        {
            "images": [
                {"imgid": 0, "filename": "1.jpg", "split": "train", "sentences": [{"raw": "A cat."}]},
                {"imgid": 1, "filename": "2.jpg", "split": "test", "sentences": [{"raw": "A dog."}]},
            ],
        },
        *(("2.jpg",), [1], "<img>1</img>Describe the image in English:"),
    ),
    Benchmark(
        *("nocaps official", "nocaps", "nocaps_val_4500_captions.json"),
        {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": [{"image_id": 0, "caption": "A baby."}]},
        *(("a.jpg",), [0], "<img>1</img>Describe the image in English:"),
    ),
    Benchmark(
        *("refcoco converted", "refcoco_testA", "refcoco_testA.jsonl"),
        [{"image": "data/coco/1.jpg", "sent": "the red one", "bbox": [1.0, 2, 30, 40], "width": 56, "height": 56}],
        *(("1.jpg",), [1], "<img>1</img><ref>the red one</ref><box>"),
    ),
    Benchmark(
        *("refcoco+ official", "refcoco+_val", "refs(unc).p"),
        [
            {
                "ref_id": 8,
                "ann_id": 80,
                "image_id": 9,
                "split": "val",
                "sentences": [{"sent_id": 1, "sent": "red"}, {"sent_id": 2, "sent": "the red one"}],
            },
            {"ref_id": 9, "ann_id": 80, "image_id": 9, "split": "testB", "sentences": [{"sent_id": 3, "sent": "x"}]},
        ],
        *(("COCO_train2014_000000000009.jpg",), ["8-1", "8-2"], "<img>1</img><ref>red</ref><box>"),
        annotations={
            "images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 56, "height": 56}],
            "annotations": [{"id": 80, "bbox": [10, 20, 30, 30]}],
        },
    ),
    Benchmark(
        *("refcocog converted", "refcocog_test", "refcocog_test.jsonl"),
        [{"image": "1.jpg", "sent": "a man in red", "bbox": [1, 2, 30, 40], "width": 56, "height": 56}],
        *(("1.jpg",), [1], "<img>1</img><ref>a man in red</ref><box>"),
    ),
    Benchmark(
        *("scienceqa official", "scienceqa_img", "problems.json"),
        {
            "11": {
                "question": "Which?",
                "choices": ["red", "blue"],
                "answer": 1,
                "image": "image.png",
                "split": "test",
            },
            "12": {"question": "Which?", "choices": ["red", "blue"], "answer": 1, "image": None, "split": "test"},
            "13": {"question": "Which?", "choices": ["red", "blue"], "answer": 1, "image": "image.png", "split": "val"},
        },
        *(("test/11/image.png",), ["11"], OPTIONS),
        left_out={"without a picture": 1},
    ),
    Benchmark(
        *("scienceqa converted", "scienceqa_test_img", "scienceqa_test_img.jsonl"),
        [{"image": "1.png", "hint": "", "question": "Which?", "choices": ["red", "blue"], "answer": 0}],
        *(("1.png",), [1], OPTIONS),
    ),
    Benchmark(
        *("mmbench official", "mmbench_dev_20230712", "mmbench_dev_20230712.tsv"),
        [
            ["index", "question", "hint", "A", "B", "C", "D", "answer", "image"],
            ["5", "Which?", "", "red", "blue", "", "", "A", PICTURE],
            ["1000005", "Which?", "nan", "blue", "red", "nan", "nan", "B", PICTURE],
        ],
        *((), [5, 1000005], OPTIONS),
    ),
    Benchmark(
        *("seed-bench official", "seed_bench", "SEED-Bench.json"),
        {
            "questions": [
                {
                    "question_id": "1",
                    "question_type_id": 1,
                    "data_id": "1_2",
                    "question": "Which?",
                    "answer": "D",
                    **{f"choice_{letter}": colour for letter, colour in zip("abcd", "wxyz", strict=True)},
                },
                {"question_id": "2", "question_type_id": 10, "data_id": "v", "question": "What?", "answer": "A"},
            ]
        },
        *(("1_2",), ["1"], "<img>1</img>\nQuestion: Which?\nOptions: A. w\nB. x\nC. y\nD. z\nAnswer:"),
        left_out={"about a video": 1},
    ),
    Benchmark(
        *("mme eval_tool", "mme", "Your_Results/"),
        {"color.txt": "1.png\tIs it red? Please answer yes or no.\tYes\n1.png\tIs it blue?\tNo\n"},
        *(("color/1.png",), ["color/1.png/1", "color/1.png/2"]),
        "<img>1</img>\nIs it red? Please answer yes or no.",
    ),
)
