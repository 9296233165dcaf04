"""`evaluate` with a model: from the options to an `Evaluation`, and its result to the screen."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mindformers_qwenvl.cli._generation import ModelDirectory
from mindformers_qwenvl.evaluate.data import Loaded, read_samples
from mindformers_qwenvl.evaluate.prompts import Asking
from mindformers_qwenvl.evaluate.report import lines_for_people
from mindformers_qwenvl.evaluate.samples import Sample
from mindformers_qwenvl.evaluate.tasks import Task

# Options of `predict` that a benchmark does not have: its pictures are files, its answers greedy.
LEFT_ALONE = dict.fromkeys(
    (
        *("allow_host", "allow_private", "system", "max_window_size", "do_sample", "temperature", "top_k", "top_p"),
        "repetition_penalty",
    )
)


def evaluate(args: argparse.Namespace, task: Task, split: str) -> int:
    """Answer the samples and score them; returns 0, or 1 if any could not be answered."""
    if os.environ.get("MS_ROLE"):  # of msrun: its scheduler has nothing else to do, and the workers wait for it
        from mindformers_qwenvl.evaluate.evaluation import share_of_process

        share_of_process(args.output)
    loaded = read_samples(task, args.data, args.image_dir, split=split, annotations=args.annotations)
    asking = _asking(args, task, loaded)  # before the model: bad options show at once
    directory = ModelDirectory(SimpleNamespace(**{**vars(args), **LEFT_ALONE}))
    from mindformers_qwenvl.evaluate.evaluation import Evaluation

    template = directory.processor.template
    asking = replace(asking, system=template.layout["system_message"])
    transform = template.image_transform
    if args.allow_outside:
        transform = replace(transform, policy=replace(transform.policy, allow_outside=True))
    evaluation = Evaluation(
        task=task,
        split=split,
        loaded=loaded,
        asking=asking,
        root=args.image_dir or (args.data if args.data.is_dir() else args.data.parent),
        output=args.output,
        config=directory.config,
        network=lambda blocks: directory.network(blocks, _say),
        tokenizer=template.tokenizer,
        transform=transform,
        said=_said(args),
        batch_size=args.batch_size,
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        as_published=args.as_published,
        quiet=args.quiet,
    )
    try:
        result = evaluation.run()
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on")
        return 130
    if result.summary:
        _show(args, result.summary, result.failed)
    return 1 if result.failed else 0


def _asking(args: argparse.Namespace, task: Task, loaded: Loaded) -> Asking:
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


def _said(args: argparse.Namespace) -> dict[str, Any]:
    def path(given: Path | None) -> str | None:
        return None if given is None else str(given.resolve())

    return {
        "data": path(args.data),
        "model": path(args.model),
        "adapter": path(args.adapter),
        "dtype": args.dtype,
        "train_data": path(args.train_data),
    }


def _show(args: argparse.Namespace, summary: dict[str, Any], failed: list[dict[str, Any]]) -> None:
    if not args.quiet:
        print("\n".join(lines_for_people(summary)))
        for reason, count in summary["left_out"].items():
            print(f"  left out: {count}, {reason}")
        _say(str(args.output / "summary.json"))
    for record in failed[:3]:
        _say(f"mindformers-qwenvl evaluate: sample {record['id']!r}: {record['error']}")
    if failed:
        _say(f"{len(failed)} of {summary['asked']} samples failed; the same command tries them again")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
