"""CIDEr, BLEU and ROUGE-L of tokenized captions, as pycocoevalcap 1.2 (the original's) computes them.

Texts are words with spaces between, see `ptb.tokenize`. A sample is (caption, references).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CaptionScores", "bleu", "caption_scores", "cider", "rouge_l"]

ORDERS = 4  # n-grams of one to four words
CIDER_SIGMA = 6.0  # of the Gaussian penalty for a difference in length
ROUGE_BETA = 1.2  # weight of recall against precision
TINY, SMALL = 1e-15, 1e-9  # pycocoevalcap adds them to avoid division by zero; they show in its scores

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class CaptionScores:
    """Of all samples together, and of each: CIDEr (0 to 10), ROUGE-L, BLEU-1 to BLEU-4 (0 to 1).

    `cider` and `rouge_l` are means over the samples; `bleu` counts n-grams over all samples together.
    """

    cider: float
    rouge_l: float
    bleu: tuple[float, ...]
    each_cider: tuple[float, ...]
    each_rouge_l: tuple[float, ...]
    each_bleu: tuple[tuple[float, ...], ...]


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """All scores of tokenized captions against the tokenized references of each.

    Raises:
        ValueError: a caption has no references, or there are no captions.
    """
    if len(captions) != len(references) or not captions or not all(references):
        raise ValueError(
            f"{len(captions)} captions and {len(references)} sets of references: each caption needs a non-empty set"
        )
    each_cider = cider(captions, references)
    each_rouge = [rouge_l(*sample) for sample in zip(captions, references, strict=True)]
    whole_bleu, each_bleu = bleu(captions, references)
    return CaptionScores(
        cider=sum(each_cider) / len(each_cider),
        rouge_l=sum(each_rouge) / len(each_rouge),
        bleu=whole_bleu,
        each_cider=tuple(each_cider),
        each_rouge_l=tuple(each_rouge),
        each_bleu=tuple(each_bleu),
    )


def _ngrams(text: str) -> Counter[Ngram]:
    words = text.split()
    return Counter(tuple(words[start : start + n]) for n in range(1, ORDERS + 1) for start in range(len(words) - n + 1))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption: similarity of its n-grams to those of the references, rare ones counting more.

    Rarity is measured over the references of all samples, so a score depends on the other samples, and is 0 if there is
    only one.
    """
    ours = [_ngrams(caption) for caption in captions]
    theirs = [[_ngrams(reference) for reference in group] for group in references]
    seen_in = Counter(ngram for group in theirs for ngram in set().union(*group))
    log_samples = math.log(len(theirs))

    def vector(counts: Counter[Ngram]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        weights: list[dict[Ngram, float]] = [{} for _ in range(ORDERS)]
        squares = [0.0] * ORDERS
        for ngram, count in counts.items():
            weight = count * (log_samples - math.log(max(1.0, seen_in[ngram])))
            weights[len(ngram) - 1][ngram] = weight
            squares[len(ngram) - 1] += weight * weight
        pairs = sum(count for ngram, count in counts.items() if len(ngram) == 2)  # pycocoevalcap's "length"
        return weights, [math.sqrt(square) for square in squares], pairs

    scores = []
    for counts, group in zip(ours, theirs, strict=True):
        weights, norms, length = vector(counts)
        total = 0.0
        for other_weights, other_norms, other_length in map(vector, group):
            penalty = math.exp(-((length - other_length) ** 2) / (2 * CIDER_SIGMA**2))
            for n in range(ORDERS):
                shared = sum(
                    min(weight, other_weights[n].get(ngram, 0.0)) * other_weights[n].get(ngram, 0.0)
                    for ngram, weight in weights[n].items()
                )
                norm = norms[n] * other_norms[n]
                total += penalty * (shared / norm if norm else shared)
        scores.append(10 * total / ORDERS / len(group))
    return scores


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words, with the best recall and precision over all references."""
    words = caption.split(" ")
    recall = precision = 0.0
    for reference in references:
        other = reference.split(" ")
        common = _common_subsequence(words, other)
        precision, recall = max(precision, common / len(words)), max(recall, common / len(other))
    if not (recall and precision):
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for column, other in enumerate(b, 1):
            longest = diagonal + 1 if word == other else max(row[column], row[column - 1])
            diagonal, row[column] = row[column], longest
    return row[-1]


def bleu(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[tuple[float, ...], list[tuple[float, ...]]]:
    """BLEU-1 to BLEU-4 of all captions together, and of each one.

    Of several references, the length nearest to the caption's counts (the shorter of two as near).
    """
    each = []
    totals = _BleuCounts()
    for caption, group in zip(captions, references, strict=True):
        counts = _BleuCounts.of(caption, group)
        totals.add(counts)
        each.append(counts.scores(TINY, SMALL))
    return totals.scores(TINY, SMALL), each


class _BleuCounts:
    def __init__(self) -> None:
        self.guessed, self.right = [0] * ORDERS, [0] * ORDERS
        self.length = self.reference_length = 0

    @classmethod
    def of(cls, caption: str, references: Sequence[str]) -> _BleuCounts:
        counts = cls()
        counts.length = len(caption.split())
        lengths = [len(reference.split()) for reference in references]
        counts.reference_length = min(lengths, key=lambda length: (abs(length - counts.length), length))
        most: Counter[Ngram] = Counter()
        for reference in references:
            most |= _ngrams(reference)
        counts.guessed = [max(0, counts.length - n) for n in range(ORDERS)]
        for ngram, count in _ngrams(caption).items():
            counts.right[len(ngram) - 1] += min(count, most[ngram])
        return counts

    def add(self, other: _BleuCounts) -> None:
        self.guessed = [a + b for a, b in zip(self.guessed, other.guessed, strict=True)]
        self.right = [a + b for a, b in zip(self.right, other.right, strict=True)]
        self.length += other.length
        self.reference_length += other.reference_length

    def scores(self, tiny: float, small: float) -> tuple[float, ...]:
        product, scores = 1.0, []
        for n in range(ORDERS):
            product *= (self.right[n] + tiny) / (self.guessed[n] + small)
            scores.append(product ** (1 / (n + 1)))
        ratio = (self.length + tiny) / (self.reference_length + small)
        if ratio < 1:
            scores = [score * math.exp(1 - 1 / ratio) for score in scores]
        return tuple(scores)
