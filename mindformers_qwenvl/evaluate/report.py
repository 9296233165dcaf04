"""What an evaluation leaves behind: scores.jsonl, summary.json, the file for an evaluation server. Plain Python."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers_qwenvl.evaluate.samples import LETTERS
from mindformers_qwenvl.evaluate.scoring import METRICS, Answered, Scores
from mindformers_qwenvl.evaluate.tasks import CHAT_NOTE, Task
from mindformers_qwenvl.files import replacing

__all__ = ["lines_for_people", "summary_of", "write_jsonl", "write_scores", "write_submission"]

PACKAGES = ("mindformers-qwenvl", "mindformers", "mindspore", "pillow", "numpy", "pycocoevalcap", "rapidfuzz")


def summary_of(task: Task, split: str, scores: Scores, **more: Any) -> dict[str, Any]:
    """What summary.json says: the score and how it came about.

    Args:
        task, split: what was evaluated.
        scores: of its answers.
        **more: counts, settings, model and so on, as they are.
    """
    metric = METRICS[task.metric]
    score = scores.whole.get("score")
    return {
        "task": task.name,
        "title": task.title,
        "split": split or None,
        "metric": metric.name,
        "unit": metric.unit,
        **scores.whole,
        "percent": None if score is None or metric.unit != "fraction" else 100 * score,
        "samples": len(scores.rows),
        **more,
        "published": _published(task, split),
        "versions": _versions(),
    }


def _published(task: Task, split: str) -> dict[str, Any] | None:
    found = task.published.get(split) or task.published.get("")
    if found is None and len(task.published) == 1:  # of another split than the one asked for, which is then named
        [(split, found)] = task.published.items()
    if found is None:
        return None
    return {
        "Qwen-VL": found.base,
        "Qwen-VL-Chat": found.chat,
        "unit": "points" if METRICS[task.metric].unit == "points" else "percent",
        **({"split": split} if split in task.published and split else {}),
        "source": found.source,
        "note": CHAT_NOTE,
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write_scores(output: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Write scores.jsonl and summary.json into the folder `output`, which is made."""
    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "scores.jsonl", rows)
    with replacing(output / "summary.json", "w") as file:
        file.write(json.dumps(_plain(summary), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    with replacing(path, "w") as file:
        file.writelines(json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    """`value` with null for NaN and infinity, and without halves of surrogate pairs, which UTF-8 does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_submission(output: Path, task: Task, answered: Sequence[Answered]) -> Path | None:
    """The file that the task's evaluation server takes, submission.json; None for a task without one.

    A list of objects with the task's `submission` keys. MMBench and SEED-Bench take letters.
    """
    if not task.submission:
        return None
    rows = []
    for one in answered:
        said = LETTERS[one.choice] if task.by_likelihood and one.choice is not None else one.answer
        rows.append({key: said if key in ("answer", "prediction") else one.sample.keys[key] for key in task.submission})
    path = output / "submission.json"
    with replacing(path, "w") as file:
        json.dump(_plain(rows), file, ensure_ascii=False)
    return path


def lines_for_people(summary: Mapping[str, Any]) -> list[str]:
    """The summary in a few lines: the score, what else the metric says, and what was published."""
    name = summary["task"] + (f" ({summary['split']})" if summary["split"] else "")
    if summary["score"] is None:
        return [f"{name}: no sample has a right answer to compare with, so there is no score"]
    shown = f"{summary['percent']:.2f}%" if summary["percent"] is not None else f"{summary['score']:.2f}"
    if summary["metric"] == "CIDEr":
        shown = f"{summary['percent']:.2f}"
    lines = [f"{name}: {shown}  {summary['metric']}, {summary['samples']} samples"]
    for key in (
        "mean_iou",
        "ROUGE_L",
        "Bleu",
        "tokenizer",
        "tolerance",
        "majority",
        "single",
        "perception",
        "cognition",
    ):
        if key in summary:
            lines.append(f"  {key.replace('_', ' ')}: {_short(summary[key])}")
    for group, found in (summary.get("by_group") or {}).items():
        lines.append(f"  {group}: {_short(found['score'] if isinstance(found, Mapping) else found)}")
    if published := summary["published"]:
        of = ", ".join(f"{model} {published[model]}" for model in ("Qwen-VL", "Qwen-VL-Chat") if published[model])
        split = f" ({published['split']})" if published.get("split") else ""
        lines.append(f"  published{split}: {of}; {published['source']}")
        lines.append(f"  ({published['note']})")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value)
