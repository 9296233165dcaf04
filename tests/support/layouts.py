"""Helpers of the tokenizer and layout tests: golden lines, and golden ids as this package writes them."""

from __future__ import annotations

import json
from typing import Any

from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import GOLDEN, golden_set


def small_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a golden set, with its slots per image."""
    golden = golden_set(name)
    return Vocabulary.from_file(golden.vocab_file, image_slots=golden.meta["n_queries"])


def golden_lines(name: str) -> list[dict[str, Any]]:
    """The records of tests/golden/`name`."""
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


def failed(value: Any) -> bool:
    """Whether a golden value says that the original raises."""
    return isinstance(value, dict) and "error" in value


def pads_in_images(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Golden ids with pads where the original has the bytes of an image's path."""
    output, inside = [], False
    for index in ids:
        inside = inside and index != vocabulary.img_end_id
        output.append(vocabulary.img_pad_id if inside else index)
        inside = inside or index == vocabulary.img_start_id
    return output
