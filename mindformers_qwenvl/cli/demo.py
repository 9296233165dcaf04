"""Fine-tune a tiny Qwen-VL on drawn shapes and ask it about new ones, in about two minutes on a CPU.

The demo draws pictures of coloured shapes. A Qwen-VL of 0.9 million parameters learns from scratch to name their colour
and shape and to find them, through MindFormers' own Trainer and the YAMLs of this package. Then it is asked about
pictures it has not seen. It leaves data, YAMLs, a checkpoint, the loss curve (loss.png), a sheet of pictures with the
answers (answers.png) and all answers (answers.jsonl).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

EPILOG = """\
exit code: 0 if at least 90% of the answers about colour and shape are right and the mean IoU of the boxes is at least
0.5; else 1.

examples:
  mindformers-qwenvl demo
  mindformers-qwenvl demo --workdir /tmp/shapes

  # then ask its model in the browser, at http://127.0.0.1:8000/ (extra [serve])
  mindformers-qwenvl demo --serve

  # train an adapter on the model in that folder; without one, a model is trained first
  mindformers-qwenvl demo --lora --workdir /tmp/shapes
"""

__all__ = ["EPILOG", "NEEDS_HOST", "add_arguments", "run"]

NEEDS_HOST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", type=Path, default=Path("qwenvl_demo"), help="folder for all files (default: ./qwenvl_demo)"
    )

    parser.add_argument(
        "--lora",
        action="store_true",
        help="then teach the model a new colour with a LoRA adapter, and compare base, adapter and merged answers",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="then serve the model with a chat page; a model already in --workdir is used as it is (extra [serve])",
    )
    parser.add_argument("--port", type=int, default=8000, help="with --serve: port of the page (default: %(default)s)")
    parser.set_defaults(usage=parser.error)


def run(args: argparse.Namespace) -> int:
    if args.serve and args.lora:
        args.usage("--serve and --lora are separate: train the adapter first, then serve with --adapter NAME=DIR")
    if args.serve:
        return _serve(args)
    if args.lora:
        from mindformers_qwenvl.demo.adapter import run as run_adapter

        return 0 if run_adapter(args.workdir).passed else 1
    from mindformers_qwenvl.demo.demonstration import run as run_demo

    return 0 if run_demo(args.workdir).passed else 1


def _serve(args: argparse.Namespace) -> int:
    from mindformers_qwenvl.cli.serve import need_extra

    need_extra()  # before minutes of training
    from mindformers_qwenvl.demo.served import SYSTEM, model_directory

    folder = model_directory(args.workdir)
    pictures = args.workdir.resolve() / "test"
    print(f"pictures to ask about: {pictures}")
    print("questions it has learnt: Find the shape. / What colour is the square? / Which shape is red?", flush=True)
    # A new program: this one has threads that Ctrl-C would reach, and still holds what training needed.
    command = ["serve", "--model", str(folder), "--page", "--greedy", "--system", SYSTEM, "--port", str(args.port)]
    command += ["--max-length", "256", "--rows", "4"]  # few graphs to compile
    os.execv(sys.executable, [sys.executable, "-m", "mindformers_qwenvl", *command])
    raise AssertionError("execv does not return")
