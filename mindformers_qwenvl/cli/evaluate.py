"""Run a benchmark of the original and score it, or score answers that exist already."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.evaluate.tasks import TASKS, find_task

EPILOG = f"""tasks: {", ".join(TASKS)}
A task's name may end in a split: refcoco_testA, vqav2_testdev, docvqa_test. Names of the original's scripts work, too.

examples:
  mindformers-qwenvl evaluate --task vqav2_val --data v2_OpenEnded_mscoco_val2014_questions.json \\
      --annotations v2_mscoco_val2014_annotations.json --image-dir coco --model Qwen-VL --batch-size 8 --output vqav2

  # a file converted for the original; after an interruption the same command resumes
  mindformers-qwenvl evaluate --task refcoco_testA --data refcoco_testA.jsonl --image-dir coco --model Qwen-VL-Chat \\
      --output refcoco_testA

  # eight cards share the samples
  msrun --worker_num 8 --local_worker_num 8 --join True mindformers-qwenvl evaluate --task gqa --data testdev.jsonl \\
      --image-dir gqa/images --model Qwen-VL --output gqa

  # any server with OpenAI's interface, 16 questions at a time
  mindformers-qwenvl evaluate --task docvqa_val --data val.jsonl --image-dir docvqa --output docvqa \\
      --base-url http://127.0.0.1:8000/v1 --batch-size 16

  # answers that exist already; needs neither a model nor MindSpore
  mindformers-qwenvl evaluate --task docvqa --score answers.jsonl --output scores

  # your own held-out conversations, in the format of the fine-tuning data
  mindformers-qwenvl evaluate --task vqa --data held_out.json --model mine --output mine_vqa

rows of --score, one JSON object a line:
  {{"answer": "two dogs", "answers": ["2 dogs", "two", ...]}}
  {{"answer": "(100,200),(499,799)", "bbox": [64, 60, 192, 180], "width": 320, "height": 240}}     boxes; bbox in pixels
  {{"caption": "a dog runs", "references": ["a dog is running", ...]}}
  {{"losses": [2.1, 0.4], "answer": 1, "choices": ["red", "blue"]}}                                multiple choice

written to the folder --output: answers.jsonl, scores.jsonl, summary.json, worst.png, and for test sets submission.json
exit code: 0; 1 if anything could not be answered; 2 for bad usage
"""


HOLDS_INTERRUPTS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    from mindformers_qwenvl.cli._generation import DTYPES

    parser.add_argument("--task", required=True, metavar="NAME", help="what to evaluate (see below)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="FILE", help="the questions (for MME and AI2D: a folder)")
    what.add_argument(
        "--score", type=Path, metavar="ANSWERS", help="answers that exist already, JSON Lines (see below)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results (needed with --data)")
    parser.add_argument(
        "--as-published",
        action="store_true",
        help="relaxed accuracy (ChartQA) as the original computes it: 5%% of the prediction, not of the right number",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no closing lines")
    run = parser.add_argument_group("with --data")
    run.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="directory with config.json, weights and vocabulary: an original HuggingFace one, or one of ours",
    )
    run.add_argument(
        "--base-url",
        metavar="URL",
        help="ask a server with OpenAI's interface instead, such as http://127.0.0.1:8000/v1; --model is then the name "
        "of one of its models (default: the first), --batch-size the number of questions at a time. A key is taken "
        "from the environment variable OPENAI_API_KEY",
    )
    run.add_argument("--adapter", type=Path, metavar="DIR", help="a LoRA adapter for the model")
    run.add_argument("--image-dir", type=Path, metavar="DIR", help="folder of the pictures (default: that of FILE)")
    run.add_argument("--annotations", type=Path, metavar="FILE", help="second file, with the official answers or boxes")
    run.add_argument("--batch-size", type=int, default=1, metavar="N", help="samples at a time (default: 1)")
    run.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    run.add_argument(
        "--few-shot", type=int, default=0, metavar="N", help="N examples with answers before each question"
    )
    run.add_argument("--train-data", type=Path, metavar="FILE", help="where the examples are drawn from")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed for drawing the examples (default: 0)")
    run.add_argument("--prompt", metavar="TEXT", help="prompt instead of the task's, with {image} and {question}")
    run.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of an answer, instead of the task's limit")
    run.add_argument(
        "--chat-format",
        choices=["chatml", "raw"],
        help="chatml: the prompt as a message of a chat; raw: the prompt as it is (default: what the task says; for "
        "your own conversations: chatml)",
    )
    run.add_argument(
        "--system",
        metavar="TEXT",
        help="system message with chatml: the one the model was trained with (default: that of its processor)",
    )
    run.add_argument("--allow-outside", action="store_true", help="let pictures be outside of --image-dir")
    run.add_argument("--dtype", choices=list(DTYPES), metavar="DTYPE", help="float32, float16 or bfloat16")
    parser.set_defaults(usage=parser.error)


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns 0, or 1 if any sample could not be answered."""
    _check_usage(args)
    try:
        task, split = find_task(args.task)
    except ValueError as error:
        args.usage(str(error))
        raise
    if args.score:
        return _score(args, task, split)
    from mindformers_qwenvl.versions import require_host

    require_host()
    from mindformers_qwenvl.cli._evaluation import evaluate

    return evaluate(args, task, split)


def _check_usage(args: argparse.Namespace) -> None:
    if args.data and not ((args.model or args.base_url) and args.output):
        args.usage("--data needs --model DIR (or --base-url URL) and --output DIR")
    if args.score and (args.model or args.base_url):
        args.usage("--score takes answers that exist already; leave --model and --base-url out")
    for name in ("adapter", "dtype", "chat_format"):
        if args.base_url and getattr(args, name) is not None:
            args.usage(f"--{name.replace('_', '-')} is for a model on this machine, not for --base-url")
    for name in ("batch_size", "limit", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            args.usage(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.few_shot < 0:
        args.usage(f"--few-shot must be 0 or more, got {args.few_shot}")
    if bool(args.few_shot) != bool(args.train_data):
        args.usage("--few-shot and --train-data must be given together")


def _score(args: argparse.Namespace, task: Any, split: str) -> int:
    from mindformers_qwenvl.evaluate.data.answers import read_answers
    from mindformers_qwenvl.evaluate.report import lines_for_people, summary_of, write_scores
    from mindformers_qwenvl.evaluate.scoring import score_answers

    scores = score_answers(task, read_answers(task, args.score), as_published=args.as_published)
    summary = summary_of(task, split, scores, answers=str(args.score))
    if args.output:
        write_scores(args.output, scores.rows, summary)
    if not args.quiet:
        print("\n".join(map(printable, lines_for_people(summary))))
        if args.output:
            print(f"{args.output / 'summary.json'}", file=sys.stderr)
    return 0
