"""Serve a model with OpenAI's interface: pictures in, streamed answers and boxes out; with --page also a chat page."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_qwenvl.cli._generation import ModelDirectory, add_generation_arguments, import_host

if TYPE_CHECKING:
    from mindformers_qwenvl.serve.ranks import Place

EPILOG = """\
addresses:
  POST /v1/chat/completions, /v1/completions    OpenAI's interface; GET /v1/models lists base model and adapters
  GET  /health                                  200 as soon as it can answer, 503 before
  GET  /metrics                                 counters for Prometheus
  GET  /                                        with --page: the chat page

SIGTERM or Ctrl-C stops it; answers in progress may finish (--grace). A second Ctrl-C stops it at once.

examples:
  mindformers-qwenvl serve --model Qwen-VL-Chat
  mindformers-qwenvl serve --model Qwen-VL-Chat --page --adapter radiology=lora1 --adapter signs=lora2
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"model": "Qwen-VL-Chat", "messages": [{"role": "user", "content": "Hello"}]}'
  msrun --worker_num=2 --local_worker_num=2 --join=True $(which mindformers-qwenvl) serve --model Qwen-VL-Chat
"""

NEEDS_HOST = True
ENDED_BY_RANK_0 = {signal.SIGINT, signal.SIGTERM}
MOMENT = 1.0  # seconds in which rank 0 may report a fault that all ranks meet while loading, not just a lost rank


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_generation_arguments(parser, adapters=True)
    where = parser.add_argument_group("address")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    where.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    where.add_argument("--page", action="store_true", help="serve the chat page at /, too")
    where.add_argument("--served-name", metavar="NAME", help="name of the base model (default: that of its directory)")
    where.add_argument(
        "--server-name",
        action="append",
        metavar="NAME",
        help="host name that requests may use, besides localhost, when it listens on loopback; may be repeated",
    )
    where.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="file of keys, one a line; a request must have one of them"
    )
    where.add_argument(
        "--allow-origin", action="append", metavar="ORIGIN", help="let pages of this origin use it (CORS); repeatable"
    )
    several = parser.add_argument_group(
        "several cards", "Started by msrun, rank 0 serves, and the other ranks share its network."
    )
    several.add_argument(
        "--ranks-port",
        type=int,
        metavar="N",
        help="port on which rank 0 waits for the others (default: the one after msrun's --master_port)",
    )
    several.add_argument(
        "--ranks-key-file",
        type=Path,
        metavar="FILE",
        help="file with a secret that all ranks share; needed on several machines (default: one made on this machine)",
    )
    size = parser.add_argument_group("size and limits")
    size.add_argument("--rows", type=int, default=8, metavar="N", help="answers written at once (default: %(default)s)")
    size.add_argument("--queue", type=int, default=128, metavar="N", help="answers that wait (default: %(default)s)")
    size.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of prompt and answer (default: seq_length of the model)"
    )
    size.add_argument(
        "--cache-tokens",
        type=int,
        metavar="N",
        help="tokens of all answers together in the key/value cache (default: --rows times --max-length)",
    )
    size.add_argument(
        "--picture-memory",
        type=int,
        default=256,
        metavar="MB",
        help="memory for vectors of pictures that may be asked about again (default: %(default)s)",
    )
    size.add_argument("--max-body", type=int, default=48, metavar="MB", help="size of a request (default: %(default)s)")
    size.add_argument(
        "--max-pixels", type=int, default=40_000_000, metavar="N", help="pixels of a picture (default: %(default)s)"
    )
    size.add_argument(
        "--request-timeout", type=float, default=600, metavar="S", help="seconds for an answer (default: %(default)g)"
    )
    size.add_argument(
        "--grace", type=float, default=30, metavar="S", help="seconds left to answers after SIGTERM (%(default)g)"
    )
    parser.add_argument(
        "--allow-folder",
        action="append",
        metavar="DIR",
        help="let requests name picture files of this server in this folder; may be repeated (default: none)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns 0; or 1 if the network fails at every step."""
    for name, least in (("rows", 1), ("queue", 0), ("max_body", 1), ("max_pixels", 1), ("picture_memory", 0)):
        if getattr(args, name) < least:
            args.usage(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    if not (args.request_timeout > 0 and args.grace >= 0 and 0 <= args.port < 65536):
        args.usage("--request-timeout must be above 0, --grace at least 0, --port from 0 to 65535")
    if args.ranks_port is not None and not 0 < args.ranks_port < 65536:
        args.usage(f"--ranks-port must be from 1 to 65535, got {args.ranks_port}")
    need_extra()
    from mindformers_qwenvl.serve.ranks import Place

    place = Place.of(os.environ)
    if place is None or place.rank == 0:
        return _serve(args, place)
    return _schedule() if place.rank is None else _follow(args, place)


def _serve(args: argparse.Namespace, place: Place | None) -> int:
    from mindformers_qwenvl.serve.ranks import end_now, gather, gone_words
    from mindformers_qwenvl.serve.server import Signals, bind

    def gone(rank: int) -> None:
        time.sleep(MOMENT)
        _say(gone_words(rank))
        end_now(1)

    signals = Signals()  # before anything that starts threads
    keys = _keys(args.api_key_file)
    listening = bind(args.host, args.port)  # before minutes of loading
    with contextlib.ExitStack() as held:
        ranks = None
        if place is not None:
            ranks = gather(place, args.ranks_port, args.ranks_key_file, gone)
            held.callback(ranks.end)
        directory = ModelDirectory(args, say=_say)
        from mindformers_qwenvl.serve.start import start

        _log(logging.INFO)
        return start(args, directory, listening, signals, keys, _say, ranks)


def _follow(args: argparse.Namespace, place: Place) -> int:
    from mindformers_qwenvl.serve.ranks import join

    rank0 = join(place, args.ranks_port, args.ranks_key_file, _say)
    for number in ENDED_BY_RANK_0:  # it gets SIGTERM together with this process, or alone
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDED_BY_RANK_0)  # MindSpore sets handlers of its own
    directory = ModelDirectory(args, say=lambda _: None)
    from mindformers_qwenvl.serve.start import start_following

    _log(logging.WARNING)
    return start_following(args, directory, rank0, place.size)


def _log(level: int) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("mindformers_qwenvl.serve").setLevel(level)


def _schedule() -> int:
    """The part of msrun's scheduler, which runs this command, too."""
    import_host()
    from mindformers_qwenvl.host.context import join_job

    join_job()
    return 0


def need_extra() -> None:
    """Raise OSError, which says what to install, if a package that serving needs is missing."""
    for module in ("starlette", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise OSError(f"serving needs the extra [serve]: pip install 'mindformers-qwenvl[serve]' (no {module})")


def _keys(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    keys = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not keys:
        raise ValueError(f"--api-key-file {file}: there are no keys in it")
    return keys


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk behind standard error must not end the server
        print(text, file=sys.stderr, flush=True)
