"""Vision, prefill and decoding of a 448M-parameter Qwen-VL on this CPU, beside what the machine can do at best.

    python -m tests.bench.bench_inference [--threads 2] [--tokens 32]

Yardsticks, measured in the same run: the best MatMul rate, and the rate at which weights can be read (a product of one
row with matrices that do not fit into the cache). Decoding one token reads every weight of the language model once;
vision and prefill are as good as their matrix products.
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
# PyTorch on a machine of this kind: seconds, seconds with one image, tokens a second.
ORIGINAL = {"vision": 0.655, "prefill": 1.45, "decode": 18.2}


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


def build():
    from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLVisionConfig

    types = {"compute_dtype": "float32", "param_init_type": "float32"}
    vision = QwenVLVisionConfig(
        hidden_size=VISION_WIDTH, num_hidden_layers=VISION_LAYERS, num_attention_heads=VISION_HEADS, image_size=IMAGE,
        output_dim=HIDDEN, num_queries=QUERIES, **types,
    )  # fmt: skip
    llm = QwenConfig(
        hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, intermediate_size=MLP, vocab_size=VOCAB,
        seq_length=2048, use_past=True, block_size=16, num_blocks=128, **types,
    )  # fmt: skip
    return QwenVL(QwenVLConfig(vision, llm)).set_train(False)


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
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["LOG_MF_PATH"] = tempfile.mkdtemp()
    os.chdir(tempfile.mkdtemp())

    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU", runtime_num_threads=args.threads)
    random = np.random.RandomState(0)

    # Yardsticks.
    a, b = (Tensor(random.randn(1024, 1024).astype(np.float32)) for _ in range(2))
    square = ops.MatMul()
    peak = 2 * 1024**3 / timed(lambda: square(a, b).asnumpy(), 30, 5) / 1e9
    row = Tensor(random.randn(1, HIDDEN).astype(np.float32))
    source = random.randn(VOCAB, HIDDEN).astype(np.float32)
    table, copied = Tensor(source), np.empty_like(source)
    product = ops.MatMul(transpose_b=True)
    bandwidth = source.nbytes / timed(lambda: product(row, table).asnumpy(), 10, 2) / 1e9
    copy = 2 * source.nbytes / timed(lambda: np.copyto(copied, source), 5, 1) / 1e9
    print(f"MatMul 1024^3         {peak:8.1f} GFLOP/s")
    print(f"reading weights       {bandwidth:8.1f} GB/s   (1 x {HIDDEN} x {VOCAB}; numpy copy {copy:.1f} GB/s)")

    network = build()
    parameters = [p for p in network.get_parameters() if not p.name.endswith("_cache")]
    print(f"network               {sum(p.size for p in parameters) / 1e6:8.1f} M parameters")

    image = Tensor(random.randn(1, 3, IMAGE, IMAGE).astype(np.float32))
    vision = timed(lambda: network.vision_encoder(image).asnumpy())
    report("vision, one image", vision, vision_flops(), peak, ORIGINAL["vision"])

    ids = random.randint(0, 150000, (1, PROMPT)).astype(np.int32)
    positions = np.stack([np.zeros(QUERIES), np.arange(20, 20 + QUERIES)], -1).astype(np.int32)
    inputs = {
        "images": image.reshape(1, 1, 3, IMAGE, IMAGE),
        "image_context_pos": Tensor(positions.reshape(1, 1, QUERIES, 2)),
    }
    stamps = Stamps()

    def answer(tokens, **images):
        stamps.clear()
        network.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=[-1], streamer=stamps, **images)
        return np.diff(stamps.times)

    for _ in range(2):
        answer(args.tokens, **inputs)
    first = statistics.median(answer(2, **inputs)[0] for _ in range(5))
    flops = prefill_flops(PROMPT) + vision_flops()
    report(f"prefill, {PROMPT} tokens, one image", first, flops, peak, ORIGINAL["prefill"])

    step = statistics.median(answer(args.tokens, **inputs)[1:])
    read = sum(p.nbytes for p in network.llm_model.get_parameters() if "cache" not in p.name and "wte" not in p.name)
    floor = read / bandwidth / 1e9
    print(
        f"decode                {1 / step:8.1f} tokens/s   {floor / step:6.1%} of reading {read / 1e9:.2f} GB a token"
        f"   ({1 / step / ORIGINAL['decode']:.2f} x the original)"
    )
    return 0


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


def report(what: str, seconds: float, flops: float, peak: float, original: float) -> None:
    rate = flops / seconds / 1e9
    print(
        f"{what:30s}{seconds:7.3f} s   {rate:7.1f} GFLOP/s, {rate / peak:6.1%} of MatMul   "
        f"({original / seconds:.2f} x the original)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
