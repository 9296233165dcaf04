"""The server under load on loopback: 1 to 64 askers with pictures, a batch beside single requests, a picture that is
asked about twice, memory over 2,000 requests.

    python -m tests.bench.bench_serve [--size tiny|448M] [--askers 1 4 16 64] [--requests 64] [--tokens 24]
                                      [--many 2000] [--threads 2]

The server is a process of its own; each asker knows its own answer from having asked alone, and checks it. Yardsticks:
decoding a token reads every weight of the language model once, whatever the rows, so that a batch of 8 can at best be 8
times as fast as single requests; where products of 8 rows are bound by arithmetic, the time of a bare product of the
largest matrix with 8 rows, beside 1 row, says what the machine allows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.host import prepare

ROWS = 8
LONGEST = {"tiny": 128, "448M": 448}


# ---- the server's process


def serve(size: str, threads: int) -> None:
    """Load a network of random weights and serve it; prints the port when it is ready."""
    prepare(threads)
    import uvicorn

    from mindformers_qwenvl.generation.settings import settings_for
    from mindformers_qwenvl.serve.app import make_app
    from mindformers_qwenvl.serve.server import bind, configured
    from mindformers_qwenvl.serve.service import Limits
    from mindformers_qwenvl.serve.start import make_service

    network, processor = (tiny if size == "tiny" else large)()
    network.set_train(False)
    service = make_service(
        *(network, processor, settings_for(network), "base", Limits()), rows=ROWS, queue=256, longest=LONGEST[size]
    )
    service.engine.start(lambda text: print(text, file=sys.stderr, flush=True))
    service.engine.ready.wait()
    listening = bind("127.0.0.1", 0)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(configured(make_app(service), 1)).run(sockets=[listening])


def tiny() -> tuple[Any, Any]:
    from mindformers_qwenvl import QwenVL
    from mindformers_qwenvl.data.processor import QwenVLProcessor
    from tests.support.golden import write_checkpoint

    folder = str(write_checkpoint("a56", tempfile.mkdtemp()))
    blocks = ROWS * LONGEST["tiny"] // 16 + ROWS
    return QwenVL.from_pretrained(folder, use_past=True, num_blocks=blocks), QwenVLProcessor.from_pretrained(folder)


def large() -> tuple[Any, Any]:
    from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLTokenizer, QwenVLVisionConfig
    from mindformers_qwenvl.data.image_processor import QwenVLImageProcessor
    from mindformers_qwenvl.data.processor import QwenVLProcessor
    from tests.bench import bench_inference as sizes

    types = {"compute_dtype": "float32", "param_init_type": "float32"}
    vision = QwenVLVisionConfig(
        hidden_size=sizes.VISION_WIDTH, num_hidden_layers=sizes.VISION_LAYERS,
        num_attention_heads=sizes.VISION_HEADS, image_size=sizes.IMAGE, output_dim=sizes.HIDDEN,
        num_queries=sizes.QUERIES, **types,
    )  # fmt: skip
    llm = QwenConfig(
        hidden_size=sizes.HIDDEN, num_layers=sizes.LAYERS, num_heads=sizes.HEADS, intermediate_size=sizes.MLP,
        vocab_size=sizes.VOCAB, seq_length=2048, use_past=True, block_size=16,
        num_blocks=ROWS * LONGEST["448M"] // 16 + ROWS, **types,
    )  # fmt: skip
    network = QwenVL(QwenVLConfig(vision, llm))
    tokenizer = QwenVLTokenizer(None)
    return network, QwenVLProcessor(QwenVLImageProcessor(image_size=sizes.IMAGE), tokenizer, num_queries=sizes.QUERIES)


# ---- the askers


@contextlib.contextmanager
def server(size: str, threads: int) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_serve", "--serve", size, "--threads", str(threads)]
    environment = dict(os.environ)
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=tempfile.mkdtemp()
    )
    try:
        port = next((line for line in process.stdout if line.strip().isdecimal()), None)
        if port is None:
            raise RuntimeError("the server did not start")
        yield f"http://127.0.0.1:{port.strip()}", process.pid
    finally:
        process.terminate()
        process.wait()


def pictures(count: int, side: int = 64) -> list[str]:
    """Different pictures as addresses."""
    import numpy as np
    from PIL import Image

    from tests.support.web import data_uri

    found = []
    for number in range(count):
        file = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        found.append(data_uri(file.getvalue()))
    return found


def body(number: int, picture: str | None, tokens: int) -> dict[str, Any]:
    """A greedy question whose answer has `tokens` tokens: none of them ends it."""
    content: list[dict[str, Any]] = [{"type": "text", "text": f"Question {number}?"}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    messages = [{"role": "user", "content": content}]
    return {"model": "base", "messages": messages, "temperature": 0, "max_tokens": tokens, "min_tokens": tokens}


async def ask(client: Any, asked: dict[str, Any]) -> tuple[str, float, float]:
    """Text, seconds to the first token, seconds in all."""
    start, first, text = time.perf_counter(), None, ""
    async with client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            piece = chunk["choices"][0]["delta"].get("content")
            if piece and first is None:
                first = time.perf_counter() - start
            text += piece or ""
    total = time.perf_counter() - start
    return text, total if first is None else first, total


async def load(address: str, questions: list[dict[str, Any]], askers: int, requests: int) -> dict[str, Any]:
    """`requests` requests of `askers` askers at once; counts answers that are not the asker's own."""
    import httpx

    wrong, times = 0, []
    limits = httpx.Limits(max_connections=askers + 1)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        expected = [(await ask(client, question))[0] for question in questions]

        async def asker(number: int) -> None:
            nonlocal wrong
            for turn in range(number, requests, askers):
                which = turn % len(questions)
                text, first, total = await ask(client, questions[which])
                wrong += text != expected[which]
                times.append((first, total))

        start = time.perf_counter()
        await asyncio.gather(*(asker(number) for number in range(askers)))
        seconds = time.perf_counter() - start
    return {"wrong": wrong, "answers": len(times), "seconds": seconds, "times": times}


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, round(share * (len(values) - 1)))]


def resident(process: int) -> float:
    """MB of memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def batch_yardstick(threads: int) -> float:
    """How many times as fast a bare product of 8 rows with the 448M network's head is, for each row, as of 1 row."""
    import numpy as np

    head = np.random.default_rng(0).standard_normal((151936 // 4, 1024), np.float32)
    rows = np.random.default_rng(1).standard_normal((8, 1024), np.float32)

    def seconds(count: int) -> float:
        found = []
        for _ in range(7):
            start = time.perf_counter()
            head @ rows[:count].T
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    return 8 * seconds(1) / seconds(8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["tiny", "448M"], default="tiny")
    parser.add_argument("--askers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=64, help="of each row of the table")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--many", type=int, default=2000, help="requests of the memory test; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", choices=["tiny", "448M"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.threads)
        return 0
    shown = pictures(8, 64 if args.size == "tiny" else 448)
    failed = 0
    with server(args.size, args.threads) as (address, process):
        print(
            f"{args.size} network, {ROWS} rows, {args.threads} threads, answers of {args.tokens} tokens with a picture"
        )
        print("askers  requests/s  tokens/s   first token p50, p99       answer p50, p99    MB")
        questions = [body(number, shown[number % 8], args.tokens) for number in range(16)]
        for askers in args.askers:
            result = asyncio.run(load(address, questions, askers, max(args.requests, askers)))
            failed += result["wrong"]
            rate = result["answers"] / result["seconds"]
            cells = [
                percentile(list(times), share) for times in zip(*result["times"], strict=True) for share in (0.5, 0.99)
            ]
            shown_cells = "".join(f"{cell:>9.2f} s" for cell in cells)
            note = f"   {result['wrong']} WRONG" if result["wrong"] else ""
            numbers = f"{askers:>6}{rate:>12.2f}{rate * args.tokens:>10.1f}{shown_cells}{resident(process):>6.0f}"
            print(numbers + note, flush=True)
        texts = [body(number, None, args.tokens) for number in range(8)]
        single = asyncio.run(load(address, texts, 1, 8))
        batch = asyncio.run(load(address, texts, 8, 8))
        failed += single["wrong"] + batch["wrong"]
        tokens = 8 * args.tokens
        print(
            f"8 requests one after the other {tokens / single['seconds']:.1f} tokens/s, at once "
            f"{tokens / batch['seconds']:.1f}: {single['seconds'] / batch['seconds']:.2f} times "
            f"(a bare product of 8 rows with a large matrix: {batch_yardstick(args.threads):.2f} times)",
            flush=True,
        )
        first_question(address, args)
        if args.many:
            failed += memory(address, process, shown, args.many)
    print("every asker got its own answer" if not failed else f"{failed} WRONG answers")
    return 1 if failed else 0


def first_question(address: str, args: argparse.Namespace) -> None:
    """Seconds to the first token of the first and the second question about a picture; medians of five pictures."""
    new = pictures(16, 64 if args.size == "tiny" else 448)[-5:]

    async def both() -> list[tuple[float, float, bool]]:
        import httpx

        found = []
        async with httpx.AsyncClient(base_url=address, timeout=600) as client:
            for picture in new:
                question = body(1, picture, 4)
                one, two = await ask(client, question), await ask(client, question)
                found.append((one[1], two[1], one[0] == two[0]))
        return found

    found = asyncio.run(both())
    one, two = (statistics.median(times[place] for times in found) for place in (0, 1))
    same = "the same answers" if all(times[2] for times in found) else "DIFFERENT answers"
    print(
        f"first token of the first question about a picture {one:.3f} s, of the second {two:.3f} s, {same}", flush=True
    )


def memory(address: str, process: int, shown: list[str], many: int) -> int:
    """Memory after a tenth of `many` short requests and after all; returns wrong answers."""
    questions = [body(number, shown[number % 8] if number % 2 else None, 2) for number in range(16)]
    early = asyncio.run(load(address, questions, 16, many // 10))
    before = resident(process)
    late = asyncio.run(load(address, questions, 16, many - many // 10))
    print(
        f"memory after {many // 10} requests {before:.0f} MB, after {many} {resident(process):.0f} MB; "
        f"{late['answers'] / late['seconds']:.1f} requests/s of 2 tokens",
        flush=True,
    )
    return early["wrong"] + late["wrong"]


if __name__ == "__main__":
    sys.exit(main())
