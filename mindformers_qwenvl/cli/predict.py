"""Answer a question about pictures, or a file of questions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from mindformers_qwenvl.cli._generation import ModelDirectory, add_generation_arguments, on_screen, say
from mindformers_qwenvl.cli._inputs import check_pictures, in_options
from mindformers_qwenvl.files import check_output, replacing
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.tags import tag_pairs

EPILOG = """examples:
  mindformers-qwenvl predict --model Qwen-VL-Chat --image a.png --image b.png "Compare them."

  # draw the boxes of the answer on the last picture
  mindformers-qwenvl predict --model Qwen-VL-Chat --image a.png --draw boxes.png "Box the cat."

  # find something, with the base model or the chat model
  mindformers-qwenvl predict --model Qwen-VL --image a.png --ground "the red shape" --draw box.png

  # a picture from a server in your own network
  mindformers-qwenvl predict --model Qwen-VL-Chat --image http://10.1.2.3/a.png --allow-private 10.1.2.3 "What is it?"

  # let the base model continue a text
  mindformers-qwenvl predict --model Qwen-VL --raw --image a.png "Generate the caption in English with grounding:"

  # a file of questions, one JSON object a line; the same command resumes it after an interruption and retries failures
  mindformers-qwenvl predict --model Qwen-VL-Chat --input batch.jsonl --output answers.jsonl --batch-size 8

lines of the input:
  {"id": "a", "images": ["1.png", "2.png"], "text": "Compare them."}
  {"id": "b", "query": [{"image": "1.png"}, {"text": "..."}], "history": [["Hello", "Hi!"]], "system": "Be brief."}
lines of the output, in the order of completion:
  {"id": "a", "answer": "...", "finish": "stop", "prompt_tokens": 539, "new_tokens": 12}
  {"id": "b", "error": "FileNotFoundError: image /data/1.png: no such file"}

exit code: 0; 1 if any question could not be answered; 2 for bad usage; 130 after Ctrl-C.
"""

NEEDS_HOST = True
HOLDS_INTERRUPTS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="what to ask")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="a picture before the question: a path, or a file:, http(s): or data: URL; may be repeated",
    )
    parser.add_argument(
        "--ground", metavar="TEXT", help="find TEXT in the picture, with the prompt of the paper's grounding benchmarks"
    )
    parser.add_argument("--draw", type=Path, metavar="OUT", help="draw the boxes of the answer on the last picture")
    parser.add_argument("--input", type=Path, metavar="FILE", help="questions in JSON Lines (see below)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file for the answers to --input, in JSON Lines")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="questions answered together (default: 1)"
    )
    parser.add_argument(
        "--image-dir",
        type=Path,
        metavar="DIR",
        help="folder of the pictures in --input; their paths must stay inside it (default: the folder of FILE)",
    )
    parser.add_argument("--allow-outside", action="store_true", help="let paths in --input leave that folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no closing line")
    parser.add_argument(
        "--chat-format",
        choices=["chatml", "raw"],
        help="chatml: the layout of the chat model and of fine-tuned ones; raw: the text as it is (default: that of "
        "generation_config.json, else chatml)",
    )
    parser.add_argument(
        "--raw", dest="chat_format", action="store_const", const="raw", help="same as --chat-format raw"
    )
    add_generation_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed for sampling (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Answer; returns 0, or 1 if any question could not be answered."""
    _check_usage(args)
    if args.ground is not None:
        from mindformers_qwenvl.cli._ground import find

        return find(args)
    return _answer_file(args) if args.input else _answer_one(args)


def _check_usage(args: argparse.Namespace) -> None:
    if args.input and (args.question is not None or args.image or args.draw):
        args.usage("--input has its own questions and pictures: leave out QUESTION, --image and --draw")
    if args.ground is not None and (args.input or args.question is not None or len(args.image) != 1):
        args.usage("--ground takes one --image, and neither QUESTION nor --input")
    if bool(args.input) != bool(args.output):
        args.usage("--input and --output must be given together")
    if not args.input and args.question is None and args.ground is None:
        args.usage("give a QUESTION (with --raw, the text to continue), or --input FILE --output FILE")
    if not args.input and (args.image_dir or args.allow_outside or args.batch_size != 1):
        args.usage("--image-dir, --allow-outside and --batch-size need --input")
    if args.batch_size < 1:
        args.usage(f"--batch-size must be at least 1, got {args.batch_size}")
    if args.question is not None and not args.question.strip() and not args.image:
        args.usage("the QUESTION is empty")
    if args.input and args.output.resolve() == args.input.resolve():
        args.usage(f"--output {args.output} is the same file as --input")
    if args.draw and _format_of(args.draw) not in Image.SAVE:
        args.usage(f"--draw {args.draw}: the name must end in the suffix of an image format, such as .png")


def _format_of(path: Path) -> str | None:
    """Pillow's name for the image format of the suffix."""
    return Image.registered_extensions().get(path.suffix.lower())


class Prediction:
    """The questions of one call, prepared as far as possible without the network.

    Args:
        args: the command's options.
        questions: see `chat.questions`.
        root: folder of their pictures.
    """

    def __init__(self, args: argparse.Namespace, questions: list, root: Path | None):
        self.directory = directory = ModelDirectory(args)
        from mindformers_qwenvl.chat.batches import prepare
        from mindformers_qwenvl.generation.prompt import Pictures

        self.args = args
        self.seconds = 0.0  # spent on pictures and in the network
        self.settings = directory.settings(seed=args.seed, chat_format=args.chat_format)
        template = directory.processor.template
        transform = template.image_transform
        if args.allow_outside:
            transform = replace(transform, policy=replace(transform.policy, allow_outside=True))
        self.tokenizer = template.tokenizer
        self.pictures = Pictures(transform, root, keep=0)
        self.prepared, self.failed = prepare(
            self.tokenizer,
            questions,
            self.settings,
            seq_length=directory.config.seq_length,
            system=SYSTEM_MESSAGE if args.system is None else args.system,
        )

    def records(self, on_text: Callable[[str], None] | None = None) -> Any:
        """Yields the records, batch by batch, see `answer_questions`."""
        from mindformers_qwenvl.chat.batches import answer_questions, cache_blocks

        yield self.failed
        if not self.prepared:
            return
        config = self.directory.config
        blocks = cache_blocks(
            self.prepared,
            self.args.batch_size,
            seq_length=config.seq_length,
            max_new_tokens=self.settings.max_new_tokens,
            block_size=config.block_size,
        )
        batches = answer_questions(
            self.directory.network(blocks, say),
            self.tokenizer,
            self.pictures,
            self.prepared,
            self.settings,
            batch_size=self.args.batch_size,
            seed=self.args.seed,
            on_text=on_text,
        )
        started = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - started
            yield batch
            started = time.perf_counter()


def _answer_one(args: argparse.Namespace) -> int:
    from mindformers_qwenvl.chat.questions import Question

    if args.draw:
        tagged = [pair.content for pair in tag_pairs(args.question or "") if pair.kind == "image" and pair.content]
        files = [image for image in (*args.image, *tagged) if "://" not in image and not image.startswith("data:")]
        check_output(args.draw, *files)
    query = [*({"image": image} for image in args.image), *([] if args.question is None else [{"text": args.question}])]
    check_pictures(args.image)
    prediction = Prediction(args, [Question("question", query)], None)
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        print(on_screen(text[len(shown) :]), end="", flush=True)
        shown = text

    try:
        [record] = [record for batch in prediction.records(show) for record in batch]
    except KeyboardInterrupt:
        print(flush=True)
        raise
    if "error" in record:
        if shown:
            print(flush=True)
        say(f"mindformers-qwenvl predict: {in_options(record['error'])}")
        return 1
    print(on_screen(record["answer"].removeprefix(shown)))
    if args.draw:
        _draw(args, prediction, query, record["answer"])
    return 0


def _draw(args: argparse.Namespace, prediction: Prediction, query: list, answer: str) -> None:
    from mindformers_qwenvl.grounding import draw_on_latest_picture, latest_picture

    transform = prediction.pictures.transform
    picture = draw_on_latest_picture(
        answer,
        [(query, answer)],
        tags=prediction.tokenizer.tags,
        policy=transform.policy,
        exif_rotation=transform.exif_rotation,
    )
    if picture is None:
        seen = latest_picture(answer, [(query, answer)], prediction.tokenizer.tags)
        reason = "there is no picture to draw on" if seen is None else "the answer has no box"
        say(f"{args.draw}: not written, because {reason}")
        return
    with replacing(args.draw) as file:
        picture.save(file, _format_of(args.draw))
    say(f"boxes drawn: {args.draw}")


def _interrupted(left: int) -> str:
    return f"interrupted with {left} questions left; the same command resumes"


def _last_words(journal: Any, left: int) -> None:
    say(_interrupted(left))
    journal.release()


def _answer_file(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from mindformers_qwenvl.chat.journal import Journal
    from mindformers_qwenvl.chat.questions import read_questions

    questions = read_questions(args.input)
    with Journal(args.output) as journal:
        left = [question for question in questions if str(question.id) not in journal.answered]
        before = len(questions) - len(left)
        done = failed = tokens = 0
        rate = "0 tokens/s"
        bar = tqdm(
            total=len(questions),
            initial=before,
            unit="question",
            desc="answering",
            disable=args.quiet,
            mininterval=0.5,
        )
        try:
            args.interrupts.last_words = lambda: _last_words(journal, len(left) - done)
            prediction = Prediction(args, left, args.image_dir or args.input.parent) if left else None
            for batch in prediction.records() if prediction else ():
                for record in batch:
                    if "error" in record:
                        record["error"] = in_options(record["error"])
                    journal.write(record)
                done += len(batch)
                failed += sum("error" in record for record in batch)
                tokens += sum(record.get("new_tokens", 0) for record in batch)
                rate = f"{tokens / prediction.seconds:.1f} tokens/s" if prediction.seconds else rate
                bar.set_postfix_str(f"{rate}, {failed} failed" if failed else rate, refresh=False)
                bar.update(len(batch))
        except KeyboardInterrupt:
            bar.close()
            say(_interrupted(len(left) - done))
            return 130
        finally:
            bar.close()
    if not args.quiet:
        resumed = f", {before} already there" if before else ""
        say(f"{done - failed} answered, {failed} failed{resumed}; {tokens} tokens, {rate}: {args.output}")
    return 1 if failed else 0
