"""A whole evaluation: from samples to answers to scores, and the files it leaves in its folder."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mindformers.generation import GenerationConfig
from tqdm import tqdm

from mindformers_qwenvl.chat.batches import Prepared, cache_blocks
from mindformers_qwenvl.evaluate import report
from mindformers_qwenvl.evaluate.data import Loaded
from mindformers_qwenvl.evaluate.prompts import Asking
from mindformers_qwenvl.evaluate.runner import ANSWERS, Share, answered_of, answers_of, prepare, read_records, run
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.scoring import Answered, score_answers
from mindformers_qwenvl.evaluate.sheet import write_sheet
from mindformers_qwenvl.evaluate.tasks import Task
from mindformers_qwenvl.files import read_json, replacing
from mindformers_qwenvl.generation.prompt import Pictures
from mindformers_qwenvl.generation.settings import settings_for
from mindformers_qwenvl.pictures.images import ImageTransform

__all__ = ["Evaluation", "Result", "share_of_process"]

SETTINGS = "settings.json"
BOX_IN_WORDS = 100  # new tokens: in a conversation the answer has the <ref> too, which is part of RefCOCO's prompt
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # the rate is in the postfix


@dataclass(frozen=True)
class Result:
    """summary: as in summary.json; failed: the records without an answer. Both empty in all processes but the first."""

    summary: dict[str, Any] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` does with a model.

    task, split: see `tasks.find_task`; loaded: see `data.read_samples`; asking: see `prompts.Asking`.
    root: the folder of the pictures; output: that of the results.
    config: the `QwenVLConfig` of the model; network: makes the model, given its number of cache blocks.
    tokenizer, transform: of the model.
    said: what else settings.json says about the model, such as its directory.
    """

    task: Task
    split: str
    loaded: Loaded
    asking: Asking
    root: Path
    output: Path
    config: Any
    network: Callable[[int], Any]
    tokenizer: Any
    transform: ImageTransform
    said: dict[str, Any]
    batch_size: int = 1
    limit: int | None = None
    max_new_tokens: int | None = None
    as_published: bool = False
    quiet: bool = False

    @property
    def samples(self) -> list[Sample]:
        return self.loaded.samples[: self.limit]

    @property
    def settings(self) -> dict[str, Any]:
        """What the answers depend on; an interrupted evaluation continues only if they are the same."""
        longest, shortest = self._lengths()
        return {
            "task": self.task.name,
            "split": self.split or None,
            "prompt": self.asking.prompt,
            "chat_format": "chatml" if self.asking.chat else "raw",
            "system": self.asking.system if self.asking.chat else None,
            "max_new_tokens": longest,
            "min_new_tokens": shortest,
            "few_shot": self.asking.few_shot,
            "seed": self.asking.seed,
            **self.said,
        }

    def _lengths(self) -> tuple[int, int]:
        longest = self.task.longest
        if self.loaded.conversations and self.task.metric == "grounding":
            longest = max(longest, BOX_IN_WORDS)
        longest = self.max_new_tokens or longest
        return longest, min(self.task.shortest, longest)

    def run(self) -> Result:
        """Answer what is not answered yet, and score; processes that msrun started share the samples.

        Raises:
            ValueError: a sample cannot be laid out, or `output` holds answers made with other settings.
            OSError: a file cannot be written.
        """
        prepared = self._prepare()
        share = share_of_process(self.output)
        self.output.mkdir(parents=True, exist_ok=True)
        if share.rank == 0:
            _keep_settings(self.output / SETTINGS, self.settings)
        share.begin()
        _wait_for_all(share.size)
        self._answer(share, prepared)
        share.end()
        return self._report(share) if share.rank == 0 else Result()

    def _prepare(self) -> list[tuple[Sample, Prepared]]:
        return prepare(self.task, self.samples, self.tokenizer, self.asking)

    def _answer(self, share: Share, prepared: list[tuple[Sample, Prepared]]) -> None:
        running = _Running(self.task)
        bar = tqdm(
            total=len(share.mine(prepared)),
            unit="sample",
            desc=self.task.name,
            bar_format=BAR,
            disable=self.quiet or share.rank > 0,
            mininterval=0.5,
        )
        with bar:
            for batch in run(share, prepared, self._batches):
                running.add(batch)
                bar.set_postfix_str(running.text(), refresh=False)
                bar.update(len(batch))

    def _batches(self, left: Sequence[tuple[Sample, Prepared]]) -> Iterator[list[dict[str, Any]]]:
        config = self._generation()
        blocks = 1
        if not self.task.by_likelihood:
            blocks = cache_blocks(
                [one for _, one in left],
                self.batch_size,
                seq_length=self.config.seq_length,
                max_new_tokens=config.max_new_tokens,
                block_size=self.config.block_size,
            )
        pictures = Pictures(self.transform, self.root, keep=0)
        network = self.network(blocks)
        return answers_of(*(self.task, left, network, self.tokenizer, pictures, config), batch_size=self.batch_size)

    def _generation(self) -> Any:
        """Greedy, whatever the model's generation_config.json says."""
        longest, shortest = self._lengths()
        plain = SimpleNamespace(config=self.config, generation_config=GenerationConfig.from_model_config(self.config))
        return settings_for(
            plain,
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=longest or 1,
            min_new_tokens=shortest,
            chat_format="chatml" if self.asking.chat else "raw",
        )

    def _report(self, share: Share) -> Result:
        records = read_records(self.output)
        found = [records[str(sample.id)] for sample in self.samples if str(sample.id) in records]
        report.write_jsonl(self.output / ANSWERS, found)  # in the order of the samples, whichever process answered
        for path in self.output.glob("answers.rank_*.jsonl"):
            path.unlink()
        answered = answered_of(self.samples, records)
        scores = score_answers(self.task, answered, as_published=self.as_published)
        failed = [record for record in found if "answer" not in record]
        summary = report.summary_of(
            *(self.task, self.split, scores),
            asked=len(self.samples),
            answered=len(answered),
            failed=len(failed),
            without_truth=sum(not one.sample.has_truth for one in answered),
            left_out=self.loaded.left_out,
            limit=self.limit,
            seed=self.asking.seed,
            settings={**self.settings, "batch_size": self.batch_size, "processes": share.size},
        )
        report.write_scores(self.output, scores.rows, summary)
        self._more_files(answered, scores.rows)
        return Result(summary, failed)

    def _more_files(self, answered: list[Answered], rows: list[dict[str, Any]]) -> None:
        if any(not one.sample.has_truth for one in answered):
            report.write_submission(self.output, self.task, answered)
        if rows:
            samples = [one.sample for one in answered if one.sample.has_truth]
            write_sheet(self.output / "worst.png", samples, rows, root=self.root, policy=self.transform.policy)


class _Running:
    """Rate and score so far; no CIDEr, because it depends on all captions together."""

    def __init__(self, task: Task):
        self.task, self.total, self.count, self.new, self.failed = task, 0.0, 0, 0, 0
        self.began: float | None = None

    def add(self, batch: list[tuple[Sample, dict[str, Any]]]) -> None:
        if self.began is None:  # the first batch holds the answers of an earlier run
            self.began = time.perf_counter()
        else:
            self.new += len(batch)
        self.failed += sum("answer" not in record for _, record in batch)
        if self.task.metric != "captions":
            found = {str(record["id"]): record for _, record in batch}
            rows = score_answers(self.task, answered_of([sample for sample, _ in batch], found)).rows
            self.total, self.count = self.total + sum(row["score"] for row in rows), self.count + len(rows)

    def text(self) -> str:
        parts = []
        if self.new:
            rate = self.new / (time.perf_counter() - self.began)
            parts.append(f"{rate:.1f} samples/s" if rate >= 1 else f"{1 / rate:.1f} s/sample")
        if self.count:
            parts.append(f"score {self.total / self.count:.3f}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


def _keep_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse to mix answers with those of other settings."""
    if path.is_file():
        before = read_json(path)
        differs = sorted(key for key in {*settings, *before} if settings.get(key) != before.get(key))
        if differs:
            shown = "; ".join(f"{key} was {before.get(key)!r}, now {settings.get(key)!r}" for key in differs)
            raise ValueError(f"{path.parent} holds answers made with other settings ({shown}): give another --output")
    with replacing(path, "w") as file:
        file.write(json.dumps(settings, ensure_ascii=False, indent=2) + "\n")


def share_of_process(output: Path) -> Share:
    """This process's share of the samples: all, unless msrun has started several processes. msrun's scheduler, which
    runs the same command, waits here until the others have ended, and then ends too."""
    role = os.environ.get("MS_ROLE")
    if role not in ("MS_WORKER", "MS_SCHED") or int(os.environ.get("MS_WORKER_NUM", "1")) < 2:
        return Share(output)
    from mindspore.communication import GlobalComm, get_group_size, get_rank, init

    if not GlobalComm.INITED:
        init()
    if role == "MS_SCHED":
        sys.exit(0)
    return Share(output, get_rank(), get_group_size())


def _wait_for_all(size: int) -> None:
    """Wait until every process has reached this point."""
    if size > 1:
        from mindspore import Tensor
        from mindspore.ops import AllReduce

        AllReduce()(Tensor([1.0])).asnumpy()
