"""lmms-eval runs local tasks with pictures on this package, found by its entry point.

Seen with lmms-eval 0.7.3, which needs filelock below 4 (it imports `filelock._api`).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.support.golden import golden_set

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs lmms-eval"),
]

UTILS = """
from PIL import Image


def visuals(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def results(doc, results):
    return {"answered": float(bool(results[0].strip())), "exact": float(results[0].strip() == doc["answer"])}


def choices(doc):
    return [" A", " B"]


def mean(items):
    return sum(items) / len(items)
"""
TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
task: {name}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.visuals
doc_to_text: !function utils.text
doc_to_target: {target}
{more}
metadata:
  - version: 0.0
"""
GENERATE = """
generation_kwargs: {max_new_tokens: 4, temperature: 0, do_sample: false}
process_results: !function utils.results
metric_list:
  - {metric: answered, aggregation: !function utils.mean, higher_is_better: true}
  - {metric: exact, aggregation: !function utils.mean, higher_is_better: true}
"""
CHOOSE = """
doc_to_choice: !function utils.choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def test_a_local_task_of_each_kind(checkpoint_dir, tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"image": str(golden_set("a56").image(n % 4)), "question": f"What is it, {n}?", "answer": "red", "gold": n % 2}
        for n in range(5)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    for name, kind, target, more in (
        ("tiny_generate", "generate_until", "answer", GENERATE),
        ("tiny_choose", "multiple_choice", "gold", CHOOSE),
    ):
        text = TASK.format(name=name, kind=kind, target=target, more=more, data=tmp_path / "data.jsonl")
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "lmms_eval", "--model", "qwen_vl_mindformers", "--batch_size", "2"]
    command += ["--model_args", f"model={checkpoint_dir('a56')}", "--tasks", "tiny_generate,tiny_choose"]
    command += ["--include_path", str(folder), "--output_path", str(tmp_path / "out"), "--log_samples"]
    command += ["--verbosity", "DEBUG"]  # else it prints what went wrong, and exits with 0
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    printed = (done.stdout + done.stderr)[-6000:]
    assert done.returncode == 0, printed
    (found,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(found.read_text(encoding="utf-8"))["results"]
    assert results["tiny_generate"]["answered,none"] == 1, printed
    samples = {}
    for file in (tmp_path / "out").rglob("*_samples_*.jsonl"):
        samples[file.stem.partition("_samples_")[2]] = [json.loads(line) for line in file.open(encoding="utf-8")]
    assert {name: len(rows) for name, rows in samples.items()} == {"tiny_generate": 5, "tiny_choose": 5}
    chosen = [min(range(2), key=lambda n: row["filtered_resps"][n][0]) for row in samples["tiny_choose"]]
    right = [choice == n % 2 for n, choice in enumerate(chosen)]
    assert results["tiny_choose"]["acc,none"] == sum(right) / 5
