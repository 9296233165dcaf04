"""`evaluate` with a model: from the options to an `Evaluation`, and its result to the screen."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.cli._generation import ModelDirectory, import_host, say, server_of
from mindformers_qwenvl.cli._inputs import in_options
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


LAST_WORDS = "interrupted; the same command resumes"


def evaluate(args: argparse.Namespace, task: Task, split: str) -> int:
    """Answer the samples and score them; returns 0, or 1 if any could not be answered."""
    if os.environ.get("MS_ROLE"):  # under msrun: the workers wait for its scheduler, which does nothing else
        from mindformers_qwenvl.evaluate.evaluation import share_of_process

        share_of_process(args.output)
    loaded = read_samples(task, args.data, args.image_dir, split=split, annotations=args.annotations)
    asking = _asking(args, task, loaded)  # before the model: bad options show at once
    make = _by_server if args.base_url else _by_model
    evaluation = make(args, asking, {"task": task, "split": split, "loaded": loaded, **_common(args)})
    args.interrupts.last_words = lambda: say(LAST_WORDS)
    try:
        result = evaluation.run()
    except KeyboardInterrupt:
        say(LAST_WORDS)
        return 130
    if result.summary:
        _show(args, result.summary, result.failed)
    return 1 if result.failed else 0


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "root": args.image_dir or (args.data if args.data.is_dir() else args.data.parent),
        "output": args.output,
        "said": _said(args),
        "batch_size": args.batch_size,
        "limit": args.limit,
        "max_new_tokens": args.max_new_tokens,
        "as_published": args.as_published,
        "quiet": args.quiet,
    }


def _by_model(args: argparse.Namespace, asking: Asking, common: dict[str, Any]) -> Any:
    directory = ModelDirectory(SimpleNamespace(**{**vars(args), **LEFT_ALONE}))
    from mindformers_qwenvl.evaluate.evaluation import Evaluation

    template = directory.processor.template
    if args.system is None:
        asking = replace(asking, system=template.layout["system_message"])
    return Evaluation(
        asking=asking,
        config=directory.config,
        network=lambda blocks: directory.network(blocks, say),
        tokenizer=template.tokenizer,
        transform=_allowing(args, template.image_transform),
        **common,
    )


def _by_server(args: argparse.Namespace, asking: Asking, common: dict[str, Any]) -> Any:
    from mindformers_qwenvl.pictures.images import ImageTransform

    remote, model = server_of(args, "--base-url", args.base_url)
    import_host()
    from mindformers_qwenvl.evaluate.remote import RemoteEvaluation

    transform = _allowing(args, ImageTransform())
    unused = {"config": None, "network": None, "tokenizer": None}
    return RemoteEvaluation(asking=asking, transform=transform, remote=remote, model=model, **unused, **common)


def _allowing(args: argparse.Namespace, transform: Any) -> Any:
    if not args.allow_outside:
        return transform
    return replace(transform, policy=replace(transform.policy, allow_outside=True))


def _asking(args: argparse.Namespace, task: Task, loaded: Loaded) -> Asking:
    examples: Sequence[Sample] = ()
    if args.train_data:
        examples = read_samples(task, args.train_data, args.image_dir, split="train").samples
    chat = loaded.conversations or task.chat
    if args.chat_format:
        chat = args.chat_format == "chatml"
    more = {} if args.system is None else {"system": args.system}
    drawn = {"few_shot": args.few_shot, "examples": examples, "seed": args.seed}
    try:
        return Asking.of(task, prompt=args.prompt, chat=chat, **drawn, **more)
    except ValueError as error:
        args.usage(str(error))
        raise


def _said(args: argparse.Namespace) -> dict[str, Any]:
    def path(given: Path | None) -> str | None:
        return None if given is None else str(given.resolve())

    return {
        "data": path(args.data),
        "model": args.base_url or path(args.model),
        "adapter": path(args.adapter),
        "dtype": args.dtype,
        "train_data": path(args.train_data),
    }


def _show(args: argparse.Namespace, summary: dict[str, Any], failed: list[dict[str, Any]]) -> None:
    if not args.quiet:
        print("\n".join(map(printable, lines_for_people(summary))))
        for reason, count in summary["left_out"].items():
            print(printable(f"  left out: {count}, {reason}"))
        say(str(args.output / "summary.json"))
    for record in failed[:3]:
        say(f"mindformers-qwenvl evaluate: sample {record['id']!r}: {in_options(record['error'])}")
    if failed:
        say(f"{len(failed)} of {summary['asked']} samples failed; the same command tries them again")
