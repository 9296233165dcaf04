"""Datasets with the YAML of their training, and the report of a check."""

from __future__ import annotations

import json

import yaml

from mindformers_qwenvl.datasets.check.checker import check_file
from mindformers_qwenvl.datasets.check.findings import CheckReport
from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.datasets.check.sample_check import Finding
from tests.support.golden import golden_set

VOCABULARY = golden_set("a56").vocab_file
SLOTS = 16


def write_yaml(folder, *, loader=None, tokenizer=None, max_length=100, **template):
    """A training YAML with what a check reads, and other sections beside it."""
    template = {"type": "QwenVLContentTransformTemplate", "num_queries": SLOTS, "image_size": 28, **template}
    document = {
        "seed": 1,
        "train_dataset": {
            "data_loader": {"type": "QwenVLDataLoader", "annotation_file": "elsewhere.json", **(loader or {})},
            "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": str(VOCABULARY), **(tokenizer or {})},
            "modal_to_text_transform": {
                "type": "BaseXModalToTextTransform",
                "max_length": max_length,
                "model_transform_template": template,
            },
        },
    }
    path = folder / "finetune.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def talk(question, answer="r", **more):
    return {
        "id": "x",
        "conversations": [{"from": "user", "value": question}, {"from": "assistant", "value": answer}],
        **more,
    }


def checked(folder, records, **options) -> CheckReport:
    """The report of `records`; texts among them are put into a JSONL file as they are."""
    path = folder / "data.jsonl"
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in records))
    return check_file(path, read_settings(write_yaml(folder, **{"dataset_dir": str(folder), **options})))


def only(report) -> Finding:
    """The one thing that a report says."""
    assert report.counts.total() == 1, report
    ((finding,),) = report.first.values()
    return finding
