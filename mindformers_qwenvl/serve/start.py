"""From the options of the command to a server that runs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mindformers_qwenvl.chat.steps import Steps
from mindformers_qwenvl.chat.vectors import PictureVectors
from mindformers_qwenvl.serve.app import make_app
from mindformers_qwenvl.serve.engine import Engine
from mindformers_qwenvl.serve.metrics import Metrics
from mindformers_qwenvl.serve.prompts import Prompts
from mindformers_qwenvl.serve.server import Signals, serve
from mindformers_qwenvl.serve.service import Limits, Service
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

__all__ = ["make_service", "start"]

MB = 2**20
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def make_service(
    network: Any,
    processor: Any,
    config: Any,
    name: str,
    limits: Limits,
    *,
    rows: int = 8,
    queue: int = 128,
    longest: int | None = None,
    picture_memory: int = 256 * MB,
    max_pixels: int = 40_000_000,
    folders: tuple[str, ...] = (),
    system: str = SYSTEM_MESSAGE,
) -> Service:
    """The service of a network that is loaded; its engine is not started.

    Args:
        network: a `QwenVL` with a cache; its adapters become models of their names.
        processor: a `QwenVLProcessor`.
        config: the generation configuration that requests change.
        name: of the base model.
        rows, queue: answers that are written at once, and that wait, at most.
        longest: tokens of prompt and answer; None: what network and cache take.
        picture_memory: bytes of kept picture vectors.
        max_pixels: of a picture.
        folders: that requests may name picture files in.
        system: the system message of conversations without their own.

    Raises:
        ValueError: `longest` is more than the network or the cache takes, or two models have the same name.
    """
    model = network.config
    most = min(model.seq_length, model.num_blocks * model.block_size)
    if longest is not None and not 32 <= longest <= most:
        raise ValueError(f"--max-length must be from 32 to {most} with this model and cache, got {longest}")
    transform = processor.template.image_transform
    policy = replace(transform.policy, allow_folders=folders, max_pixels=min(transform.policy.max_pixels, max_pixels))
    transform = replace(transform, policy=policy)
    tokenizer = processor.template.tokenizer
    steps = Steps(network, rows, longest or most)
    vectors = PictureVectors(lambda pixels: steps.vectors(transform.normalise(pixels)), picture_memory)
    engine = Engine(network, steps, tokenizer, vectors, queue, Metrics())
    names = [name, *network.adapter_names]
    if len(set(names)) < len(names):
        raise ValueError(f"the models need different names, got {', '.join(names)}; see --served-name")
    return Service(engine, Prompts(tokenizer, transform, system, longest or most), config, names, limits)


def start(
    args: Any,
    directory: Any,
    listening: socket.socket,
    signals: Signals,
    keys: tuple[str, ...],
    say: Callable[[str], None],
) -> int:
    """Load the model and serve it until a signal. args: see cli/serve.py; directory: its `ModelDirectory`."""
    config = directory.config
    longest = min(args.max_length or config.seq_length, config.seq_length)
    tokens = args.cache_tokens or args.rows * longest
    settings = directory.settings()
    network = directory.network(-(-tokens // config.block_size) + args.rows, say)
    host, port = listening.getsockname()[:2]
    loopback = host in ("127.0.0.1", "::1")
    names = (*LOOPBACK, *(name.lower() for name in args.server_name or ()))
    limits = Limits(
        body=args.max_body * MB,
        bodies=max(512, 4 * args.max_body) * MB,
        answer_seconds=args.request_timeout,
        origins=tuple(args.allow_origin or ()),
        hosts=frozenset(names) if loopback else None,
        keys=keys,
    )
    service = make_service(
        network,
        directory.processor,
        settings,
        args.served_name or args.model.resolve().name,
        limits,
        rows=args.rows,
        queue=args.queue,
        longest=args.max_length,
        picture_memory=args.picture_memory * MB,
        max_pixels=args.max_pixels,
        folders=tuple(args.allow_folder or ()),
        system=SYSTEM_MESSAGE if args.system is None else args.system,
    )
    app = make_app(service, args.page)
    shown = f"[{host}]" if ":" in host else host
    if not loopback and not keys:
        say("anyone who reaches this address may ask: there is no --api-key-file")
    say(f"models: {', '.join(service.names)}")

    def progress(text: str) -> None:
        say(text)
        if service.engine.ready.is_set() or text.startswith("compiled"):
            page = f", page: http://{shown}:{port}/" if args.page else ""
            say(f"ready: http://{shown}:{port}/v1{page}")

    service.engine.start(progress)
    serve(app, service.engine, listening, signals, args.grace)
    if not service.engine.join(10):  # it is inside a graph that takes long; nobody waits for it any more
        sys.stderr.flush()
        os._exit(0)
    say("stopped: the model cannot answer, see above" if service.engine.broken else "stopped")
    return 1 if service.engine.broken else 0
