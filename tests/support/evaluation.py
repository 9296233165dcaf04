"""Golden rows of the evaluation (tests/golden/eval)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.golden import GOLDEN

EVAL = GOLDEN / "eval"


def golden_file(name: str) -> Path:
    return EVAL / f"{name}.jsonl"


@cache
def golden_rows(name: str) -> list[dict[str, Any]]:
    """The rows of tests/golden/eval/NAME.jsonl; README.md there says what they are."""
    return [json.loads(line) for line in golden_file(name).read_text(encoding="utf-8").splitlines()]


def golden_corpus() -> dict[str, Any]:
    """CIDEr, BLEU and ROUGE-L of all captions together."""
    return json.loads((EVAL / "corpus.json").read_text(encoding="utf-8"))["captions"]
