"""Metrics that compare texts: exact match, GQA's clean-up, relaxed accuracy, ANLS (original: eval_mm)."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["anls", "edit_distance", "exact_match", "gqa_answer", "relaxed_accuracy"]


def _needed(answers: Sequence[str], metric: str) -> Sequence[str]:
    if not answers:
        raise ValueError(f"{metric} needs the right answers, but got none")
    return answers


def exact_match(answer: str, answers: Sequence[str]) -> float:
    """1 if the answer is one of `answers`, ignoring case and white space at both ends; else 0.

    Original: evaluate_vqa.py, evaluate_exact_match_accuracy (OCR-VQA, AI2D, and GQA after `gqa_answer`).
    """
    said = answer.strip().lower()
    return float(any(said == one.strip().lower() for one in _needed(answers, "exact match")))


def gqa_answer(answer: str) -> str:
    """The one word or phrase that a sentence answers GQA's question with (original: evaluate_vqa.py).

    Of the first sentence or clause, it is what follows "is", "are", "a", "an" or "the" and comes before "of". The
    original looks for letters, not for words, so "sofa pillow" becomes "pillow"; published scores have this effect too.
    """
    answer = re.split("[.,!]", answer.strip(), maxsplit=1)[0].lower()
    for opening in ("is ", "are ", "a ", "an ", "the "):
        if opening in answer:
            answer = answer.split(opening)[1]
    return answer.split(" of")[0].strip()


def relaxed_accuracy(
    answer: str, answers: Sequence[str], *, tolerance: float = 0.05, as_published: bool = False
) -> float:
    """1 if the answer is one of `answers`, or a number within 5% of one; else 0 (ChartQA).

    Args:
        answer: of the model.
        answers: the right ones.
        tolerance: as a share of the right number. If that is 0, texts are compared.
        as_published: take the share of the model's number, as the original's evaluate_vqa.py does (it passes
            prediction and target in the wrong order). Scores hardly differ.
    """
    said = answer.strip()
    return float(
        any(
            _close(one, said, tolerance) if as_published else _close(said, one, tolerance)
            for one in _needed(answers, "relaxed accuracy")
        )
    )


def _close(said: str, right: str, tolerance: float) -> bool:
    number, target = _number(said), _number(right)
    if number is not None and target:
        return abs(number - target) / abs(target) <= tolerance
    return said.lower() == right.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(answer: str, answers: Sequence[str], *, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity, of one question: the share of letters that are right (DocVQA).

    Case and the amount of white space do not count in the distance; the length it is divided by is that of the texts as
    they are (original: infographicsvqa_eval.py).

    Returns:
        1 - distance / length for the nearest of `answers`, or 0 if that is below `threshold`.
    """
    distances = []
    for one in _needed(answers, "ANLS"):
        length = max(len(one.upper()), len(answer.upper()))  # "ß" has two letters then, as in the original
        distance = edit_distance(" ".join(one.lower().split()), " ".join(answer.lower().split()))
        distances.append(distance / length if length else 0.0)
    score = 1 - min(distances)
    return score if score >= threshold else 0.0


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn `a` into `b` (Levenshtein)."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        return _edit_distance(a, b)
    return Levenshtein.distance(a, b)


def _edit_distance(a: str, b: str) -> int:
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for done, character in enumerate(a, 1):
        diagonal, row[0] = row[0], done
        for column, other in enumerate(b, 1):
            cost = diagonal if character == other else 1 + min(diagonal, row[column], row[column - 1])
            diagonal, row[column] = row[column], cost
    return row[-1]
