"""`evaluate` with a model: what belongs to the screen, the files and the processes around `evaluate.runner`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mindformers_qwenvl.cli._generation import ModelDirectory
from mindformers_qwenvl.evaluate.data import Loaded, read_samples
from mindformers_qwenvl.evaluate.prompts import Asking
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import Task
from mindformers_qwenvl.files import replacing

SETTINGS = "settings.json"
LEFT_ALONE = dict.fromkeys(
    ("allow_host", "allow_private", "system", "max_window_size", "do_sample", "temperature", "top_k", "top_p")
) | {"repetition_penalty": None}


def evaluate(args: argparse.Namespace, task: Task, split: str) -> int:
    """Answer the samples and score them; returns 0, or 1 if any could not be answered."""
    loaded = read_samples(task, args.data, args.image_dir, split=split, annotations=args.annotations)
    samples = loaded.samples[: args.limit]
    asking = _asking(args, task, split, loaded)
    directory = ModelDirectory(SimpleNamespace(**{**vars(args), **LEFT_ALONE}))
    work = _Work(args, task, split, loaded, samples, asking, directory)
    return work.run()


def _asking(args: argparse.Namespace, task: Task, split: str, loaded: Loaded) -> Asking:
    examples: Sequence[Sample] = ()
    if args.train_data:
        examples = read_samples(task, args.train_data, args.image_dir, split="train").samples
    chat = loaded.conversations or task.chat
    if args.chat_format:
        chat = args.chat_format == "chatml"
    try:
        return Asking.of(task, prompt=args.prompt, chat=chat, few_shot=args.few_shot, examples=examples, seed=args.seed)
    except ValueError as error:
        args.usage(str(error))
        raise


class _Work:
    def __init__(
        self,
        args: argparse.Namespace,
        task: Task,
        split: str,
        loaded: Loaded,
        samples: list[Sample],
        asking: Asking,
        directory: ModelDirectory,
    ):
        self.args, self.task, self.split, self.loaded = args, task, split, loaded
        self.samples, self.asking, self.directory = samples, asking, directory
        self.root = args.image_dir or (args.data if args.data.is_dir() else args.data.parent)
        self.share = _share(args.output)
        self.failed = 0
        transform = directory.processor.template.image_transform
        if args.allow_outside:
            transform = replace(transform, policy=replace(transform.policy, allow_outside=True))
        self.transform = transform

    def run(self) -> int:
        from mindformers_qwenvl.evaluate.runner import answered_of, prepare, read_records

        tokenizer = self.directory.processor.template.tokenizer
        prepared = prepare(self.task, self.samples, tokenizer, self.asking)
        self.args.output.mkdir(parents=True, exist_ok=True)
        if self.share.rank == 0:
            _keep_settings(self.args.output / SETTINGS, self._settings())
        self.share.begin()
        _wait_for_all(self.share.size)
        try:
            self._answer(prepared, tokenizer)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
        self.share.end()
        if self.share.rank:
            return 1 if self.failed else 0
        records = read_records(self.args.output)
        return self._report(answered_of(self.samples, records), records)

    def _answer(self, prepared: list, tokenizer: Any) -> None:
        from tqdm import tqdm

        from mindformers_qwenvl.evaluate.runner import answered_of, run

        mine = self.share.mine(self.samples)
        running = _Running(self.task)
        quiet = self.args.quiet or self.share.rank > 0
        began = time.perf_counter()
        with tqdm(total=len(mine), unit="sample", desc=self.task.name, disable=quiet, mininterval=0.5) as bar:
            for batch in run(self.share, prepared, lambda left: self._batches(left, tokenizer)):
                self.failed += sum("error" in record for _, record in batch)
                found = {str(record["id"]): record for _, record in batch}
                running.add(answered_of([sample for sample, _ in batch], found))
                bar.set_postfix_str(running.text(self.failed, began), refresh=False)
                bar.update(len(batch))

    def _batches(self, left: list, tokenizer: Any) -> Any:
        from mindformers_qwenvl.chat.batches import cache_blocks
        from mindformers_qwenvl.evaluate.runner import answers_of
        from mindformers_qwenvl.generation.prompt import Pictures

        config, size = self._generation(), self.args.batch_size
        model = self.directory.config
        blocks = 1
        if not self.task.by_likelihood:
            blocks = cache_blocks(
                *([one for _, one in left], size),
                seq_length=model.seq_length,
                max_new_tokens=config.max_new_tokens,
                block_size=model.block_size,
            )
        network = self.directory.network(blocks, lambda text: print(text, file=sys.stderr, flush=True))
        pictures = Pictures(self.transform, self.root, keep=0)
        return answers_of(self.task, left, network, tokenizer, pictures, config, batch_size=size)

    def _generation(self) -> Any:
        """Greedy, whatever the model's generation_config.json says."""
        from mindformers.generation import GenerationConfig

        from mindformers_qwenvl.generation.settings import settings_for

        model = self.directory.config
        network = SimpleNamespace(config=model, generation_config=GenerationConfig.from_model_config(model))
        return settings_for(
            network,
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=self.args.max_new_tokens or self.task.longest or 1,
            min_new_tokens=min(self.task.shortest, self.args.max_new_tokens or self.task.shortest),
            chat_format="chatml" if self.asking.chat else "raw",
        )

    def _settings(self) -> dict[str, Any]:
        """What the answers depend on; an interrupted evaluation goes on only with the same."""
        args, asking = self.args, self.asking
        return {
            "task": self.task.name,
            "split": self.split or None,
            "data": str(args.data.resolve()),
            "model": str(args.model.resolve()),
            "adapter": str(args.adapter.resolve()) if args.adapter else None,
            "dtype": args.dtype,
            "prompt": asking.prompt,
            "chat_format": "chatml" if asking.chat else "raw",
            "max_new_tokens": args.max_new_tokens or self.task.longest,
            "min_new_tokens": self.task.shortest,
            "few_shot": asking.few_shot,
            "train_data": str(args.train_data.resolve()) if args.train_data else None,
            "seed": args.seed,
        }

    def _report(self, answered: list, records: dict[str, dict[str, Any]]) -> int:
        from mindformers_qwenvl.evaluate.report import (
            lines_for_people,
            summary_of,
            write_jsonl,
            write_scores,
            write_submission,
        )
        from mindformers_qwenvl.evaluate.runner import ANSWERS
        from mindformers_qwenvl.evaluate.scoring import score_answers
        from mindformers_qwenvl.evaluate.sheet import write_sheet

        output = self.args.output
        found = [records[str(sample.id)] for sample in self.samples if str(sample.id) in records]
        write_jsonl(output / ANSWERS, found)  # in the order of the samples, whoever answered them
        for path in output.glob("answers.rank_*.jsonl"):
            path.unlink()
        scores = score_answers(self.task, answered, as_published=self.args.as_published)
        failed = [record for record in found if "error" in record]
        summary = summary_of(
            *(self.task, self.split, scores),
            asked=len(self.samples),
            answered=len(answered),
            failed=len(failed),
            without_truth=sum(not one.sample.has_truth for one in answered),
            left_out=self.loaded.left_out,
            limit=self.args.limit,
            settings={**self._settings(), "batch_size": self.args.batch_size, "processes": self.share.size},
        )
        write_scores(output, scores.rows, summary)
        if any(not one.sample.has_truth for one in answered):
            write_submission(output, self.task, answered)
        if scores.rows:
            with_truth = [one.sample for one in answered if one.sample.has_truth]
            write_sheet(output / "worst.png", with_truth, scores.rows, root=self.root, policy=self.transform.policy)
        if not self.args.quiet:
            print("\n".join(lines_for_people(summary)))
            for reason, count in self.loaded.left_out.items():
                print(f"  left out: {count}, {reason}")
            print(f"{output / 'summary.json'}", file=sys.stderr)
        for record in failed[:3]:
            print(f"mindformers-qwenvl evaluate: sample {record['id']!r}: {record['error']}", file=sys.stderr)
        if failed:
            print(
                f"{len(failed)} of {len(self.samples)} samples failed; the same command tries them again",
                file=sys.stderr,
            )
        return 1 if failed else 0


class _Running:
    """The score so far; CIDEr has none, for it depends on all captions together."""

    def __init__(self, task: Task):
        self.task, self.total, self.count, self.new = task, 0.0, 0, 0
        self.first = True

    def add(self, answered: list) -> None:
        from mindformers_qwenvl.evaluate.scoring import score_answers

        self.new += 0 if self.first else len(answered)  # the first batch was there already
        self.first = False
        if self.task.metric != "captions":
            rows = score_answers(self.task, answered).rows
            self.total, self.count = self.total + sum(row["score"] for row in rows), self.count + len(rows)

    def text(self, failed: int, began: float) -> str:
        parts = [f"{self.new / (time.perf_counter() - began):.1f} samples/s"] if self.new else []
        if self.count:
            parts.append(f"score {self.total / self.count:.3f}")
        if failed:
            parts.append(f"{failed} failed")
        return ", ".join(parts)


def _keep_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or refuse to mix answers with those of other settings."""
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differs = sorted(key for key in {*settings, *before} if settings.get(key) != before.get(key))
        if differs:
            shown = "; ".join(f"{key} was {before.get(key)!r}, now {settings.get(key)!r}" for key in differs)
            raise ValueError(f"{path.parent} holds answers of other settings ({shown}): give another --output")
    with replacing(path, "w") as file:
        file.write(json.dumps(settings, ensure_ascii=False, indent=2) + "\n")


def _share(output: Path) -> Any:
    """This process's share of the samples, if msrun has started several."""
    from mindformers_qwenvl.evaluate.runner import Share

    if os.environ.get("MS_ROLE") != "MS_WORKER" or int(os.environ.get("MS_WORKER_NUM", "1")) < 2:
        return Share(output)
    from mindspore.communication import get_group_size, get_rank, init

    init()
    return Share(output, get_rank(), get_group_size())


def _wait_for_all(size: int) -> None:
    """Go on when every process has come here."""
    if size > 1:
        from mindspore import Tensor
        from mindspore.ops import AllReduce

        AllReduce()(Tensor([1.0])).asnumpy()
