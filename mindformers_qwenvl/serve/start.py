"""From the options of the command to a running server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mindformers_qwenvl.chat.steps import Steps
from mindformers_qwenvl.chat.vectors import PictureVectors
from mindformers_qwenvl.host.context import join_job, share_network
from mindformers_qwenvl.serve.app import make_app
from mindformers_qwenvl.serve.engine import Engine
from mindformers_qwenvl.serve.metrics import Metrics
from mindformers_qwenvl.serve.prompts import Prompts
from mindformers_qwenvl.serve.ranks import Rank0, RankGone, Ranks, end_now, gone_words
from mindformers_qwenvl.serve.server import Signals, serve
from mindformers_qwenvl.serve.service import Limits, Service
from mindformers_qwenvl.serve.shared_steps import SharedSteps, follow
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

__all__ = ["load", "make_service", "start", "start_following"]

MB = 2**20
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
STUCK = 5.0  # seconds for the engine to notice that a rank is gone; it may be inside a graph that waits for that rank


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
    ranks: Ranks | None = None,
) -> Service:
    """The service of a loaded network; its engine is not started yet.

    Args:
        network: a `QwenVL` with a cache; each of its adapters becomes a model of that name.
        processor: a `QwenVLProcessor`.
        config: the generation configuration, which requests may override.
        name: of the base model.
        limits: see `Limits`.
        rows, queue: how many answers may be written at once, and how many may wait.
        longest: the most tokens of prompt and answer together; None: as many as network and cache hold.
        picture_memory: bytes of picture vectors to keep.
        max_pixels: the most pixels of a picture.
        folders: where requests may name picture files.
        system: the system message of conversations that have none.
        ranks: the other ranks, which have the same network and run the same steps.

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
    longest = longest or most
    steps = Steps(network, rows, longest) if ranks is None else SharedSteps(network, rows, longest, ranks)
    vectors = PictureVectors(lambda pixels: steps.vectors(transform.normalise(pixels)), picture_memory)
    engine = Engine(network, steps, tokenizer, vectors, queue, Metrics())
    names = [name, *network.adapter_names]
    if len(set(names)) < len(names):
        raise ValueError(f"the models need different names, got {', '.join(names)}; see --served-name")
    return Service(engine, Prompts(tokenizer, transform, system, longest), config, names, limits)


def load(args: Any, directory: Any, say: Callable[[str], None], ranks: int = 1) -> Any:
    """The network of a server, or this rank's part of it. args: see cli/serve.py; directory: its `ModelDirectory`.

    Raises:
        ValueError: the ranks cannot share it.
    """
    config, shared = directory.config, {}
    longest = min(args.max_length or config.seq_length, config.seq_length)
    tokens = args.cache_tokens or args.rows * longest
    if ranks > 1:
        join_job()
        if share_network():
            if directory.adapters:
                raise ValueError(
                    "--adapter: cards that share a network cannot switch adapters; merge the adapter "
                    "(`mindformers-qwenvl convert-weight --adapter`) or serve on one card"
                )
            shared["parallel_config"] = {"data_parallel": 1, "model_parallel": ranks, "vocab_emb_dp": False}
    return directory.network(-(-tokens // config.block_size) + args.rows, say, **shared)


def start_following(args: Any, directory: Any, rank0: Rank0, ranks: int) -> int:
    """Load the model and run the steps that rank 0 announces, until rank 0 ends. Arguments as for `load`."""
    follow(load(args, directory, lambda _: None, ranks), rank0)
    return 0


def start(
    args: Any,
    directory: Any,
    listening: socket.socket,
    signals: Signals,
    keys: tuple[str, ...],
    say: Callable[[str], None],
    ranks: Ranks | None = None,
) -> int:
    """Load the model and serve it until a signal comes. Arguments as for `load`; ranks: the other ranks, if any."""
    settings = directory.settings()
    network = load(args, directory, say, 1 if ranks is None else ranks.size)
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
        ranks=ranks,
    )
    app = make_app(service, args.page)
    shown = f"[{host}]" if ":" in host else host
    if not loopback and not keys:
        say("anyone who reaches this address can use the model: there is no --api-key-file")
    say(f"models: {', '.join(service.names)}")

    def progress(text: str) -> None:
        say(text)
        if service.engine.ready.is_set() or text.startswith("compiled"):
            page = f", page: http://{shown}:{port}/" if args.page else ""
            say(f"ready: http://{shown}:{port}/v1{page}")

    def gone(rank: int) -> None:
        say(gone_words(rank))
        service.engine.fail()
        if not service.engine.join(STUCK):
            end_now(1)

    if ranks is not None:
        ranks.on_gone = gone
        if ranks.gone is not None:  # before `on_gone` was set
            raise RankGone(gone_words(ranks.gone))
        say(f"{ranks.size} ranks; send SIGTERM to this process, {os.getpid()}, to end them all")
    service.engine.start(progress)
    serve(app, service.engine, listening, signals, args.grace)
    ended = service.engine.join(10)  # if not, it is inside a long graph: do not wait for it any longer
    broken = service.engine.broken
    if ranks is not None:
        ranks.end()
    if ended:
        say("stopped: the model cannot answer, see above" if broken else "stopped")
    code = 1 if broken else 0
    if not ended or (ranks is not None and ranks.gone is not None):  # MindSpore's own shutdown would wait
        end_now(code)
    return code
