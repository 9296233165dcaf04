"""From answers to scores: of each sample, and of a whole task. Plain Python and numpy."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_qwenvl.evaluate import metrics
from mindformers_qwenvl.evaluate.metrics.captions import caption_scores
from mindformers_qwenvl.evaluate.metrics.ptb import tokenizer_for_captions
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import Task

__all__ = ["METRICS", "Answered", "Metric", "Scores", "score_answers"]

PEOPLE = 4  # answers without which the VQA score cannot reach 1; with fewer, `vqa` compares texts
RELAXED_WAYS = ("of_the_right_number", "as_published")  # 5% of what
PERCEPTION = frozenset(
    "existence count position color posters celebrity scene landmark artwork OCR".lower().split()
)  # the other subtasks of MME are cognition


@dataclass(frozen=True)
class Answered:
    """What a model said to a sample: `answer` a text, or `losses` of the options of a multiple-choice question."""

    sample: Sample
    answer: str = ""
    losses: tuple[float, ...] = ()
    prediction: int | None = None

    @property
    def choice(self) -> int | None:
        """The number of the chosen option: the first with the smallest loss."""
        if self.prediction is None and self.losses:
            return self.losses.index(min(self.losses))
        return self.prediction


@dataclass(frozen=True)
class Scores:
    """rows: one for each sample with a truth, in order, with a key `score`; whole: what the metric says of all."""

    rows: list[dict[str, Any]]
    whole: dict[str, Any]


Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """name: for people; unit: of the score; rows: samples to rows; whole: rows to `score` and more."""

    name: str
    unit: str
    rows: Callable[[Sequence[Answered], bool], list[Row]]
    whole: Callable[[Sequence[Answered], list[Row]], dict[str, Any]]


def score_answers(task: Task, answered: Sequence[Answered], *, as_published: bool = False) -> Scores:
    """Score the answers to a task.

    Args:
        task: see `tasks`.
        answered: the answers; those whose samples have no truth are left out.
        as_published: relaxed accuracy as the original's script computes it, see `metrics.relaxed_accuracy`.
    """
    answered = [one for one in answered if one.sample.has_truth]
    if not answered:
        return Scores([], {"score": None})
    metric = METRICS[task.metric]
    rows = metric.rows(answered, as_published)
    whole = metric.whole(answered, rows)
    if task.metric == "relaxed_accuracy":
        whole["tolerance"] = f"5% of {'the prediction, as published' if as_published else 'the right number'}"
    return Scores(rows, whole)


def _each(score: Callable[[str, Sequence[str]], float]) -> Callable[[Sequence[Answered], bool], list[Row]]:
    def rows(answered: Sequence[Answered], as_published: bool) -> list[Row]:
        return [_text_row(one, score(one.answer, one.sample.answers)) for one in answered]

    return rows


def _text_row(one: Answered, score: float, **more: Any) -> Row:
    return {
        "id": one.sample.id,
        "answer": one.answer,
        "answers": list(one.sample.answers),
        "score": score,
        **more,
    }


def _mean(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    return {"score": sum(row["score"] for row in rows) / len(rows)}


def _relaxed(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    rows = []
    for one in answered:
        ours, theirs = (
            metrics.relaxed_accuracy(one.answer, one.sample.answers, as_published=way) for way in (False, True)
        )
        ways = dict(zip(RELAXED_WAYS, (ours, theirs), strict=True))
        rows.append(_text_row(one, theirs if as_published else ours, **ways))
    return rows


def _relaxed_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    return {**_mean(answered, rows), **{way: sum(row[way] for row in rows) / len(rows) for way in RELAXED_WAYS}}


def _gqa(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    rows = []
    for one in answered:
        said = metrics.gqa_answer(one.answer)
        rows.append(_text_row(one, metrics.exact_match(said, one.sample.answers), normalised=said))
    return rows


def _vqa(answer: str, answers: Sequence[str]) -> float:
    return metrics.vqa_score(answer, answers) if len(answers) >= PEOPLE else metrics.exact_match(answer, answers)


def _grounding(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    rows = []
    for one in answered:
        width, height = one.sample.size
        found = metrics.grounding_score(one.answer, one.sample.box, width, height)
        rows.append(
            {
                "id": one.sample.id,
                "answer": one.answer,
                "bbox": list(one.sample.box),
                "width": width,
                "height": height,
                "score": float(found.correct),
                "iou": None if math.isnan(found.iou) else found.iou,
                "correct": int(found.correct),
            }
        )
    return rows


def _grounding_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    return {
        **_mean(answered, rows),
        "mean_iou": sum(row["iou"] or 0.0 for row in rows) / len(rows),
        "without_a_box": sum(not any(metrics.answer_box(row["answer"])) for row in rows),
    }


def _captions(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    _, tokenize = tokenizer_for_captions()
    said = tokenize([one.answer for one in answered])
    flat = tokenize([reference for one in answered for reference in one.sample.answers])
    references, start = [], 0
    for one in answered:
        references.append(flat[start : start + len(one.sample.answers)])
        start += len(one.sample.answers)
    scores = caption_scores(said, references)
    return [
        {
            "id": one.sample.id,
            "caption": one.answer,
            "references": list(one.sample.answers),
            "score": scores.each_cider[number],
            "cider": scores.each_cider[number],
            "rouge_l": scores.each_rouge_l[number],
            "bleu_4": scores.each_bleu[number][3],
            "tokenized": said[number],
            "tokenized_references": references[number],
        }
        for number, one in enumerate(answered)
    ]


def _captions_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    scores = caption_scores([row["tokenized"] for row in rows], [row["tokenized_references"] for row in rows])
    return {
        "score": scores.cider,
        "CIDEr": scores.cider,
        "Bleu": list(scores.bleu),
        "ROUGE_L": scores.rouge_l,
        "tokenizer": tokenizer_for_captions()[0],
    }


def _choice(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    return [
        {
            "id": one.sample.id,
            "prediction": one.choice,
            "answer": one.sample.right,
            "choices": list(one.sample.choices),
            "losses": list(one.losses),
            "score": float(one.choice == one.sample.right),
            **({"group": one.sample.group} if one.sample.group else {}),
        }
        for one in answered
    ]


def _choice_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    groups = _by_group(answered, rows)
    by_group = {name: _mean([], found)["score"] for name, found in groups.items()} if len(groups) > 1 else {}
    return {**_mean(answered, rows), **({"by_group": by_group} if by_group else {})}


def _by_group(answered: Sequence[Answered], rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for one, row in zip(answered, rows, strict=True):
        groups[one.sample.group].append(row)
    return dict(groups)


def _rotations_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    """MMBench asks a question once for each order of its options.

    circular: questions that are right in every order (the benchmark's own measure); majority: questions whose most
    frequent choice, by its text, is right (of several as frequent, the first); single: each order counted alone.
    """
    circular, majority = [], []
    for group in _by_group(answered, rows).values():
        circular.append(all(row["score"] for row in group))
        said = [_chosen_text(row, row["prediction"]) for row in group]
        right = _chosen_text(group[0], group[0]["answer"])
        majority.append(Counter(said).most_common(1)[0][0] == right)
    return {
        "score": sum(circular) / len(circular),
        "circular": sum(circular) / len(circular),
        "majority": sum(majority) / len(majority),
        "single": _mean(answered, rows)["score"],
        "questions": len(circular),
    }


def _chosen_text(row: Row, choice: int | None) -> Any:
    known = choice is not None and choice < len(row["choices"])
    return row["choices"][choice] if known else choice


YES_OR_NO = re.compile(r"yes|no")


def _mme(answered: Sequence[Answered], as_published: bool) -> list[Row]:
    """The first four letters must contain yes or no, as in the script of the MME benchmark."""
    rows = []
    for one in answered:
        start = one.answer.strip().lower()[:4]
        said = "yes" if "yes" in start else "no" if "no" in start else "other"
        score = float(said == one.sample.answers[0].strip().lower())
        rows.append(_text_row(one, score, said=said, group=one.sample.group, image=one.sample.images[0]))
    return rows


def _mme_whole(answered: Sequence[Answered], rows: list[Row]) -> dict[str, Any]:
    """For each subtask: accuracy over questions, accuracy+ over pictures with both questions right; the score is
    their sum, in percent. Perception and cognition are sums over subtasks."""
    subtasks: dict[str, dict[str, float]] = {}
    for name, group in _by_group(answered, rows).items():
        pictures: dict[str, list[float]] = defaultdict(list)
        for row in group:
            pictures[row["image"]].append(row["score"])
        accuracy = 100 * _mean([], group)["score"]
        plus = 100 * sum(all(scores) for scores in pictures.values()) / len(pictures)
        subtasks[name] = {"accuracy": accuracy, "accuracy_plus": plus, "score": accuracy + plus}
    parts = {
        part: sum(found["score"] for name, found in subtasks.items() if (name.lower() in PERCEPTION) == perception)
        for part, perception in (("perception", True), ("cognition", False))
    }
    return {"score": sum(parts.values()), **parts, "by_group": subtasks}


METRICS = {
    "vqa_score": Metric("VQA score", "fraction", _each(metrics.vqa_score), _mean),
    "exact_match": Metric("exact match", "fraction", _each(metrics.exact_match), _mean),
    "gqa": Metric("exact match after GQA's clean-up", "fraction", _gqa, _mean),
    "anls": Metric("ANLS, threshold 0.5", "fraction", _each(metrics.anls), _mean),
    "relaxed_accuracy": Metric("relaxed accuracy", "fraction", _relaxed, _relaxed_whole),
    "grounding": Metric("share with an IoU of 0.5 or more", "fraction", _grounding, _grounding_whole),
    "captions": Metric("CIDEr", "fraction", _captions, _captions_whole),
    "choice": Metric("share of right choices", "fraction", _choice, _choice_whole),
    "rotations": Metric("questions right in every order of their options", "fraction", _choice, _rotations_whole),
    "mme": Metric("accuracy and accuracy+, summed over subtasks", "points", _mme, _mme_whole),
    "vqa": Metric(
        f"VQA score of questions with {PEOPLE} answers or more, exact match of others", "fraction", _each(_vqa), _mean
    ),
}
