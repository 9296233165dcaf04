"""Vision, prefill and decoding of a 448M-parameter Qwen-VL on this CPU, beside what the machine can do at best.

    python -m tests.bench.bench_inference [--threads 2] [--tokens 32] [--rounds 5]

Yardsticks: the best MatMul rate, and the rate at which numpy reads a matrix to multiply it with one row. Decoding one
token reads every weight of the language model once; vision and prefill are as good as their matrix products. On a
shared machine both yardsticks change within minutes, so each round measures them again, beside what they are for, and
the percentages are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

HIDDEN, LAYERS, HEADS, MLP, VOCAB = 1024, 8, 8, 2752, 151936
VISION_WIDTH, VISION_LAYERS, VISION_HEADS, IMAGE, PATCHES, QUERIES = 512, 8, 8, 448, 1024, 256
PROMPT = 291


def timed(call, repeats: int = 5, warmup: int = 1) -> float:
    """Median seconds of `call()`."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def build(use_past: bool, **freeze: bool):
    from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLVisionConfig

    types = {"compute_dtype": "float32", "param_init_type": "float32"}
    vision = QwenVLVisionConfig(
        hidden_size=VISION_WIDTH, num_hidden_layers=VISION_LAYERS, num_attention_heads=VISION_HEADS, image_size=IMAGE,
        output_dim=HIDDEN, num_queries=QUERIES, **types,
    )  # fmt: skip
    llm = QwenConfig(
        hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, intermediate_size=MLP, vocab_size=VOCAB,
        seq_length=2048, use_past=use_past, block_size=16, num_blocks=128, **types,
    )  # fmt: skip
    return QwenVL(QwenVLConfig(vision, llm, **freeze)).set_train(not use_past)


def vision_flops() -> float:
    """Multiply-adds times two, of the matrix products of one image."""
    width, out = VISION_WIDTH, HIDDEN
    mlp = int(width * 4.9231)
    block = PATCHES * (4 * width * width + 2 * width * mlp) + 2 * PATCHES * PATCHES * width
    resampler = PATCHES * (width * out + 2 * out * out) + QUERIES * 3 * out * out + 2 * QUERIES * PATCHES * out
    return 2.0 * (PATCHES * 588 * width + VISION_LAYERS * block + resampler)


def prefill_flops(tokens: int) -> float:
    layer = tokens * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * MLP) + 2 * tokens * tokens * HIDDEN
    return 2.0 * (LAYERS * layer + HIDDEN * VOCAB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=5, help="times to measure everything")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["LOG_MF_PATH"] = tempfile.mkdtemp()
    os.chdir(tempfile.mkdtemp())

    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU", runtime_num_threads=args.threads)
    random = np.random.RandomState(0)

    a, b = (Tensor(random.randn(1024, 1024).astype(np.float32)) for _ in range(2))
    square = ops.MatMul()
    head, row = random.randn(VOCAB, HIDDEN).astype(np.float32), random.randn(HIDDEN).astype(np.float32)

    def peak() -> float:
        return 2 * 1024**3 / timed(lambda: square(a, b).asnumpy(), 15, 3)

    def bandwidth() -> float:
        return head.nbytes / timed(lambda: head @ row, 5, 1)

    network = build(use_past=True)
    parameters = [p for p in network.get_parameters() if not p.name.endswith("_cache")]
    print(f"network               {sum(p.size for p in parameters) / 1e6:8.1f} M parameters")

    image = Tensor(random.randn(1, 3, IMAGE, IMAGE).astype(np.float32))
    ids = random.randint(0, 150000, (1, PROMPT)).astype(np.int32)
    positions = np.stack([np.zeros(QUERIES), np.arange(20, 20 + QUERIES)], -1).astype(np.int32)
    inputs = {
        "images": image.reshape(1, 1, 3, IMAGE, IMAGE),
        "image_context_pos": Tensor(positions.reshape(1, 1, QUERIES, 2)),
    }
    stamps = Stamps()

    def answer(tokens):
        stamps.clear()
        network.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=[-1], streamer=stamps, **inputs)
        return np.diff(stamps.times)

    for _ in range(2):
        answer(args.tokens)
    read = sum(p.nbytes for p in network.llm_model.get_parameters() if "cache" not in p.name and "wte" not in p.name)
    vision, prefill, decode = Measure(), Measure(), Measure()
    for _ in range(args.rounds):
        vision.add(timed(lambda: network.vision_encoder(image).asnumpy(), 3), vision_flops(), peak())
        prefill.add(statistics.median(answer(2)[0] for _ in range(3)), prefill_flops(PROMPT) + vision_flops(), peak())
        decode.add(statistics.median(answer(args.tokens)[1:]), read, bandwidth())
    print(f"vision, one image               {vision.seconds:7.3f} s   {vision.of('GFLOP/s of MatMul 1024^3')}")
    print(f"prefill, {PROMPT} tokens, one image {prefill.seconds:7.3f} s   {prefill.of('GFLOP/s of MatMul 1024^3')}")
    print(f"decode                     {1 / decode.seconds:7.1f} tokens/s   {decode.of('GB/s of reading')}")
    return 0


class Measure:
    """Seconds of something in several rounds, and in each the rate that a yardstick had."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []

    def add(self, seconds: float, work: float, yardstick: float) -> None:
        """`work`: FLOP or bytes; `yardstick`: of the same a second."""
        self.rows.append((seconds, work / seconds, yardstick))

    @property
    def seconds(self) -> float:
        return statistics.median(seconds for seconds, *_ in self.rows)

    def of(self, unit: str) -> str:
        rate, yardstick = (statistics.median(row[column] for row in self.rows) / 1e9 for column in (1, 2))
        share = statistics.median(rate / yardstick for _, rate, yardstick in self.rows)
        unit, name = unit.split(" of ")
        return f"{rate:6.1f} {unit}: {share:.1%} of {name}, {yardstick:.1f}"


class Stamps:
    """A streamer that only notes when something came."""

    def __init__(self):
        self.times: list[float] = []

    def clear(self):
        self.times.clear()

    def put(self, _):
        self.times.append(time.perf_counter())

    def end(self):
        pass


if __name__ == "__main__":
    raise SystemExit(main())
