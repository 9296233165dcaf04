"""Records of annotation files, and the files."""

from __future__ import annotations

import json
from collections.abc import Iterable


def record(number: int, **more) -> dict:
    turns = [
        {"from": "user", "value": f'问题 {number}\n\t"q"'},
        {"from": "assistant", "value": f"a{number} 😀"},
    ]
    return {"id": f"identity_{number}", "conversations": turns, **more}


def colour_records(answers: Iterable[str], first: int = 0) -> list[dict]:
    """A question about a golden picture for each answer; those side by side are of different pictures."""
    records = []
    for number, answer in enumerate(answers, first):
        asked = f"Picture 1: <img>{number % 4}.png</img>\nWhat colour, {number}?"
        turns = [{"from": "user", "value": asked}, {"from": "assistant", "value": answer}]
        records.append({"id": f"sample_{number}", "conversations": turns})
    return records


def write_list(path, records):
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path, records, end="\n"):
    path.write_bytes(end.join(json.dumps(item, ensure_ascii=False) for item in records).encode())
    return path
