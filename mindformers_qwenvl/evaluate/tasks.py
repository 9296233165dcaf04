"""The benchmarks: what is asked, how answers are made and scored, and what the original scored. One table.

Prompts and settings are those of the original's folder eval_mm. Answers are greedy and end with `<|endoftext|>`; only
MME uses the chat frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CHAT_NOTE", "TASKS", "Published", "Task", "find_task"]

README, PAPER = "README of QwenLM/Qwen-VL", "arXiv:2308.12966"
LLAVA = "arXiv:2310.03744, table 4"  # of LLaVA-1.5; the original's authors give none
SEED_PAGE = "eval_mm/seed_bench/EVAL_SEED.md of QwenLM/Qwen-VL: the leaderboard's average over pictures"
MME_PAGE = "eval_mm/mme/EVAL_MME.md of QwenLM/Qwen-VL"
CHAT_NOTE = (
    "published numbers of Qwen-VL-Chat are of its first weights (v1.0); the weights that can be downloaded are newer "
    "(v1.1) and may score differently"
)

VQA = "<img>{image}</img>{question} Answer:"
CAPTION = "<img>{image}</img>Describe the image in English:"
GROUNDING = "<img>{image}</img><ref>{question}</ref><box>"
OPTIONS = "<img>{image}</img>Context: {hint}\nQuestion: {question}\nOptions: {options}\nAnswer:"
SEED = "<img>{image}</img>\nQuestion: {question}\nOptions: {options}\nAnswer:"
CHAT = "<img>{image}</img>\n{question}"


@dataclass(frozen=True)
class Published:
    """Scores of Qwen-VL and Qwen-VL-Chat, in percent (MME: points), and where they are from. None: not published."""

    base: float | None
    chat: float | None
    source: str


@dataclass(frozen=True)
class Task:
    """A benchmark.

    prompt: {image}, {question}, and for multiple choice {hint}, {options}, are filled in.
    metric: a key of `scoring.METRICS`.
    longest, shortest: new tokens of an answer; longest 0: nothing is generated, options are compared by likelihood.
    published: by split; "" if there is one number for all.
    chat: whether in the chat frame.
    submission: keys of the file that an evaluation server takes; () if there is none.
    """

    name: str
    title: str
    prompt: str
    metric: str
    longest: int
    shortest: int = 1
    published: Mapping[str, Published] = field(default_factory=dict)
    chat: bool = False
    submission: tuple[str, ...] = ()

    @property
    def by_likelihood(self) -> bool:
        return self.longest == 0


def _readme(base: float | None, chat: float | None) -> dict[str, Published]:
    return {"": Published(base, chat, README)}


def _paper(base: float | None, chat: float | None) -> dict[str, Published]:
    return {"": Published(base, chat, f"{PAPER}, table 5; Qwen-VL also in the {README}")}


def _splits(**scores: tuple[float, float]) -> dict[str, Published]:
    return {split: Published(base, chat, README) for split, (base, chat) in scores.items()}


_TABLE = (
    # name, title, prompt, metric, most and fewest new tokens, published
    Task("flickr30k", "Flickr30k, Karpathy's test split", CAPTION, "captions", 30, 8, _readme(85.8, 81.0)),
    Task("nocaps", "NoCaps, validation", CAPTION, "captions", 30, 8, _readme(121.4, 120.2)),
    Task(
        *("vqav2", "VQAv2", VQA, "vqa_score", 10, 1, _splits(testdev=(78.8, 78.2))),
        submission=("question_id", "answer"),
    ),
    Task("okvqa", "OK-VQA, validation", VQA, "vqa_score", 10, 1, _readme(58.6, 56.6)),
    Task("textvqa", "TextVQA, validation", VQA, "vqa_score", 10, 1, _paper(63.8, 61.5)),
    Task("vizwiz", "VizWiz", VQA, "vqa_score", 10, 1, _readme(35.2, 38.9), submission=("image", "answer")),
    Task("gqa", "GQA, test-dev balanced", VQA, "gqa", 10, 1, _readme(59.3, 57.5)),
    Task("ocrvqa", "OCR-VQA, test", VQA, "exact_match", 100, 1, _paper(75.7, 70.5)),
    Task("ai2d", "AI2D, test", VQA, "exact_match", 10, 1, _paper(62.3, 57.7)),
    Task("docvqa", "DocVQA", VQA, "anls", 100, 1, _paper(65.1, 62.6), submission=("questionId", "answer")),
    Task("chartqa", "ChartQA, test, human and augmented", VQA, "relaxed_accuracy", 100, 1, _paper(65.7, 66.3)),
    Task(
        *("refcoco", "RefCOCO", GROUNDING, "grounding", 28, 10),
        _splits(val=(89.36, 88.55), testA=(92.26, 92.27), testB=(85.34, 84.51)),
    ),
    Task(
        *("refcoco+", "RefCOCO+", GROUNDING, "grounding", 28, 10),
        _splits(val=(83.12, 82.82), testA=(88.25, 88.59), testB=(77.21, 76.79)),
    ),
    Task(
        *("refcocog", "RefCOCOg", GROUNDING, "grounding", 28, 10),
        _splits(val=(85.58, 85.96), test=(85.48, 86.32)),
    ),
    Task("scienceqa_img", "ScienceQA, test, with pictures", OPTIONS, "choice", 0, 0, _readme(67.1, 68.2)),
    Task(
        *("mmbench", "MMBench, dev", OPTIONS, "rotations", 0, 0, {"": Published(38.2, 60.6, LLAVA)}),
        submission=("index", "prediction"),
    ),
    Task(
        *("seed_bench", "SEED-Bench, pictures", SEED, "choice", 0, 0),
        {"": Published(62.3, 65.4, SEED_PAGE)},
        submission=("question_id", "prediction"),
    ),
    Task("mme", "MME, 14 subtasks", CHAT, "mme", 512, 1, {"": Published(None, 1848.29, MME_PAGE)}, chat=True),
    # For the user's own data.
    Task("vqa", "questions with short answers", VQA, "vqa", 100),
    Task("captions", "pictures with captions", CAPTION, "captions", 30, 8),
    Task("grounding", "expressions with a box", GROUNDING, "grounding", 28, 10),
)
TASKS: dict[str, Task] = {task.name: task for task in _TABLE}

_ALIASES = {
    "ai2diagram": "ai2d",
    "flickr": "flickr30k",
    "infographicsvqa": "docvqa",
    "scienceqa": "scienceqa_img",
    "seed": "seed_bench",
    "seedbench": "seed_bench",
}
_SPLITS = (
    *("val", "test", "testA", "testB", "testdev", "dev", "train", "test_img", "karpathy_test"),
    *("human", "augmented", "test_human", "test_augmented", "testdev_balanced", "dev_20230712", "test_20230712"),
)


def find_task(name: str) -> tuple[Task, str]:
    """The task of that name, and its split: "refcoco_testA" is RefCOCO's testA; "" if the name says none.

    The names of the original's scripts are known too, such as "ai2diagram_test" and "chartqa_test_human".

    Raises:
        ValueError: there is no such task; the message lists all tasks.
    """
    for split in ("", *sorted(_SPLITS, key=len, reverse=True)):
        base = name if not split else name[: -len(split) - 1] if name.endswith(f"_{split}") else None
        if base is not None and _ALIASES.get(base, base) in TASKS:
            return TASKS[_ALIASES.get(base, base)], split
    raise ValueError(
        f"no task {name!r}; there are {', '.join(TASKS)}, and splits such as refcoco_testA or vqav2_testdev"
    )
