"""Records as other projects have them, and what they become."""

from __future__ import annotations

import json

from mindformers_qwenvl.datasets.convert.converter import convert_file

COCO_NAME = "train2014/COCO_train2014_000000442786.jpg"


def ask(value: str, answer: str = "A dog.", **more) -> dict:
    return {"id": "7", **more, "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]}


def converted(folder, records, name="in.json", **options) -> list[dict]:
    """The samples that `records` become, written and read as files."""
    source, output = folder.parent / name, folder.parent / "out.json"
    lines = name.endswith("l")
    source.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records), encoding="utf-8")
    convert_file(source, folder, output, **options)
    return json.loads(output.read_text())


def texts(sample) -> list[str]:
    return [turn["value"] for turn in sample["conversations"]]
