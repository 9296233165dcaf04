"""Answer a question about pictures, or a file of questions in batches."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from mindformers_qwenvl.cli._generation import Loaded, add_generation_arguments
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

EPILOG = """examples:
  mindformers-qwenvl predict --model Qwen-VL-Chat --image a.png --image b.png "Compare them."

  # boxes of the answer, drawn on the last picture
  mindformers-qwenvl predict --model Qwen-VL-Chat --image a.png --draw boxes.png "Box the cat."

  # a picture from a server in one's own network
  mindformers-qwenvl predict --model Qwen-VL-Chat --image http://10.1.2.3/a.png --allow-private 10.1.2.3 "What is it?"

  # the base model continues a text
  mindformers-qwenvl predict --model Qwen-VL --raw --image a.png "Generate the caption in English with grounding:"

  # a file of questions, one JSON object a line; run it again to go on after an interruption, or to try failed rows
  mindformers-qwenvl predict --model Qwen-VL-Chat --input batch.jsonl --output answers.jsonl --batch-size 8

lines of the input:
  {"id": "a", "images": ["1.png", "2.png"], "text": "Compare them."}
  {"id": "b", "query": [{"image": "1.png"}, {"text": "..."}], "history": [["Hello", "Hi!"]], "system": "Be brief."}
lines of the output, as they come:
  {"id": "a", "answer": "...", "finish": "stop", "prompt_tokens": 539, "new_tokens": 12}
  {"id": "b", "error": "FileNotFoundError: image /data/1.png: no such file"}

exit code: 0; 1 if anything could not be answered; 2 for bad usage.
"""

NEEDS_HOST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="what to ask")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="a picture before the question: a path, or a file://, http(s):// or data: address; may be given again",
    )
    parser.add_argument("--draw", type=Path, metavar="OUT", help="draw the boxes of the answer on the last picture")
    parser.add_argument("--input", type=Path, metavar="FILE", help="questions, JSON Lines (see below)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where their answers go, JSON Lines")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="questions at a time (default: 1)")
    parser.add_argument(
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="folder that the pictures of --input are in, and that their paths may not leave (default: that of FILE)",
    )
    parser.add_argument("--allow-outside", action="store_true", help="let paths of --input leave that folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no closing line")
    parser.add_argument(
        "--chat-format",
        choices=["chatml", "raw"],
        help="chatml: the frame of the chat model and of fine-tuned ones; raw: the text as it is (default: what "
        "generation_config.json says, else chatml)",
    )
    parser.add_argument("--raw", dest="chat_format", action="store_const", const="raw", help="--chat-format raw")
    add_generation_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Answer; returns 0, or 1 if anything could not be answered."""
    _check_usage(args)
    return _answer_file(args) if args.input else _answer_one(args)


def _check_usage(args: argparse.Namespace) -> None:
    if args.input and (args.question is not None or args.image or args.draw):
        args.usage("--input brings its own questions and pictures; leave QUESTION, --image and --draw out")
    if bool(args.input) != bool(args.output):
        args.usage("--input and --output belong together")
    if not args.input and args.question is None and not args.image:
        args.usage("a QUESTION or an --image is needed, or --input FILE --output FILE")
    if not args.input and (args.image_dir or args.allow_outside or args.batch_size != 1):
        args.usage("--image-dir, --allow-outside and --batch-size are for --input")
    if args.batch_size < 1:
        args.usage(f"--batch-size must be at least 1, got {args.batch_size}")
    if args.input and args.output.resolve() == args.input.resolve():
        args.usage("--output is --input")
    if args.draw and args.draw.suffix.lower() not in Image.registered_extensions():
        args.usage(f"--draw {args.draw}: the name must end as pictures do, .png for one")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Work:
    """Questions of one call, prepared as far as that goes without the network."""

    def __init__(self, args: argparse.Namespace, rows: list, root: Path | None):
        self.loaded = loaded = Loaded(args)
        from dataclasses import replace

        from mindformers_qwenvl.chat.batches import prepare
        from mindformers_qwenvl.chat.prompt import Pictures

        self.args = args
        self.seconds = 0.0  # the network's, and the pictures'
        self.settings = loaded.settings(seed=args.seed, chat_format=args.chat_format)
        template = loaded.processor.template
        transform = template.image_transform
        if args.allow_outside:
            transform = replace(transform, policy=replace(transform.policy, allow_outside=True))
        self.tokenizer = template.tokenizer
        self.pictures = Pictures(transform, root, keep=0)
        self.questions, self.failed = prepare(
            self.tokenizer,
            rows,
            seq_length=loaded.config.seq_length,
            max_new_tokens=self.settings.max_new_tokens,
            max_window_size=self.settings.max_window_size,
            chat_format=self.settings.chat_format,
            system=SYSTEM_MESSAGE if args.system is None else args.system,
        )

    def records(self) -> Any:
        """Batches of records, see `answer_questions`."""
        from mindformers_qwenvl.chat.batches import answer_questions, cache_blocks

        yield self.failed
        if not self.questions:
            return
        config = self.loaded.config
        blocks = cache_blocks(
            self.questions,
            self.args.batch_size,
            seq_length=config.seq_length,
            max_new_tokens=self.settings.max_new_tokens,
            block_size=config.block_size,
        )
        batches = answer_questions(
            self.loaded.network(blocks, _say),
            self.tokenizer,
            self.pictures,
            self.questions,
            self.settings,
            batch_size=self.args.batch_size,
            seed=self.args.seed,
        )
        started = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def _answer_one(args: argparse.Namespace) -> int:
    from mindformers_qwenvl.chat.questions import Row

    query = [*({"image": image} for image in args.image), *([] if args.question is None else [{"text": args.question}])]
    work = _Work(args, [Row("question", query)], None)
    [record] = [record for batch in work.records() for record in batch]
    if "error" in record:
        _say(f"mindformers-qwenvl predict: {record['error']}")
        return 1
    print(record["answer"])
    if args.draw:
        _draw(args, work, query, record["answer"])
    return 0


def _draw(args: argparse.Namespace, work: _Work, query: list, answer: str) -> None:
    from mindformers_qwenvl.grounding import draw_on_latest_picture

    transform = work.pictures.transform
    picture = draw_on_latest_picture(
        answer,
        [(query, answer)],
        tags=work.tokenizer.tags,
        policy=transform.policy,
        exif_rotation=transform.exif_rotation,
    )
    if picture is None:
        _say(f"{args.draw}: not written, for there is no {'box in the answer' if args.image else 'picture'}")
        return
    unfinished = args.draw.with_name(f".unfinished-{args.draw.name}")  # keeps the suffix, which says the format
    picture.save(unfinished)
    unfinished.replace(args.draw)
    _say(f"boxes drawn: {args.draw}")


def _answer_file(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mindformers_qwenvl.chat.journal import Journal
    from mindformers_qwenvl.chat.questions import read_rows

    rows = read_rows(args.input)
    with Journal(args.output) as journal:
        left = [row for row in rows if str(row.id) not in journal.answered]
        before = len(rows) - len(left)
        done = failed = tokens = 0
        rate = "0 tokens/s"
        bar = tqdm(total=len(rows), initial=before, unit="row", desc="answering", disable=args.quiet, mininterval=0.5)
        try:
            work = _Work(args, left, args.image_dir or args.input.parent) if left else None
            for batch in work.records() if work else ():
                for record in batch:
                    journal.write(record)
                done += len(batch)
                failed += sum("error" in record for record in batch)
                tokens += sum(record.get("new_tokens", 0) for record in batch)
                rate = f"{tokens / work.seconds:.1f} tokens/s" if work.seconds else rate
                bar.set_postfix_str(f"{rate}, {failed} failed" if failed else rate, refresh=False)
                bar.update(len(batch))
        except KeyboardInterrupt:
            bar.close()
            _say(f"interrupted; {len(left) - done} rows are left, the same command goes on with them")
            return 1
        finally:
            bar.close()
    if not args.quiet:
        resumed = f", {before} were there already" if before else ""
        _say(f"{done - failed} answered, {failed} failed{resumed}; {tokens} tokens, {rate}: {args.output}")
    return 1 if failed else 0
