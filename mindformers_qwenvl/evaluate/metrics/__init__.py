"""Metrics of the original's benchmarks (its folder eval_mm). Plain Python and numpy.

Checked against tests/golden/eval, whose scores were computed by the original's own code.

- `text`, `vqa`: exact match, GQA's clean-up, relaxed accuracy, ANLS; the VQA score.
- `grounding`: whether the box of an answer covers the right thing.
- `captions`, `ptb`: CIDEr, BLEU and ROUGE-L, and captions to words.
"""

from mindformers_qwenvl.evaluate.metrics.grounding import GroundingScore, answer_box, grounding_score
from mindformers_qwenvl.evaluate.metrics.text import anls, exact_match, gqa_answer, relaxed_accuracy
from mindformers_qwenvl.evaluate.metrics.vqa import vqa_score

__all__ = [
    "GroundingScore",
    "anls",
    "answer_box",
    "exact_match",
    "gqa_answer",
    "grounding_score",
    "relaxed_accuracy",
    "vqa_score",
]
