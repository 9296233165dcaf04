"""Records of annotation files, and the files."""

from __future__ import annotations

import json


def record(number: int, **more) -> dict:
    turns = [
        {"from": "user", "value": f'问题 {number}\n\t"q"'},
        {"from": "assistant", "value": f"a{number} 😀"},
    ]
    return {"id": f"identity_{number}", "conversations": turns, **more}


def write_list(path, records):
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path, records, end="\n"):
    path.write_bytes(end.join(json.dumps(item, ensure_ascii=False) for item in records).encode())
    return path
