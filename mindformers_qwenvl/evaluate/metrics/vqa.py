"""The VQA score (VQAv2, OK-VQA, TextVQA, VizWiz), as the original computes it (eval_mm/vqa_eval.py).

That is the first public version of the benchmark's own script, not the later one: articles, numbers and contractions
are made uniform only in the answer, not in what people said. So "two" becomes "2" and then differs from the "two" of
ten people. Published scores use this version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["normalised", "vqa_score"]

PEOPLE_WHO_AGREE = 3  # for a full score

PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
PERIODS = 32  # at most this many are removed: the original passes re.UNICODE (32) as the count

ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

# Contractions that are recognised without their apostrophe.
_ONE_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's I'm
    I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
    there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're
    you've
"""
# Of these either apostrophe may be missing, but not both.
_TWO_APOSTROPHES = """
    couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    for word in _TWO_APOSTROPHES.split():
        first, second = (place for place, character in enumerate(word) if character == "'")
        table[word[:first] + word[first + 1 :]] = word
        table[word[:second] + word[second + 1 :]] = word
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    table |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    table["somebody'd"] = "somebodyd"  # the original has this one the wrong way round
    return table


CONTRACTIONS = _contractions()


def _without_punctuation(text: str) -> str:
    """A mark is removed everywhere if a space is next to it anywhere in the text, or if a number has a comma; else it
    becomes a space."""
    grouped = COMMA_IN_NUMBER.search(text)
    result = text
    for mark in PUNCTUATION:
        at_a_word = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if at_a_word or grouped else " ")
    return PERIOD.sub("", result, count=PERIODS)


def normalised(answer: str) -> str:
    """An answer in the form in which it is compared: no punctuation, no articles, numbers in digits, lower case."""
    answer = _without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = (NUMBERS.get(word, word) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(answer: str, answers: Sequence[str]) -> float:
    """How far people agree with an answer: 1 if three of them do, averaged over leaving out one of them at a time.

    Args:
        answer: of the model.
        answers: of the people who were asked, ten in the benchmarks. Each is left out in turn, and the rest gives
            `min(1, number of those who said the same / 3)`.

    Returns:
        0 to 1. With fewer than four answers it cannot reach 1.

    Raises:
        ValueError: there are no answers.
    """
    if not answers:
        raise ValueError("the VQA score needs the answers people gave, but got none")
    said = normalised(answer)
    if len(set(answers)) > 1:
        answers = [_without_punctuation(one) for one in answers]
    agree = [one == said for one in answers]
    total = sum(agree)
    return sum(min(1.0, (total - same) / PEOPLE_WHO_AGREE) for same in agree) / len(agree)
