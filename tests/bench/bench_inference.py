"""Vision, prefill and decoding of a 448M-parameter Qwen-VL on this CPU, beside what the machine can do at best.

    python -m tests.bench.bench_inference [--threads 2] [--tokens 32] [--rounds 5] [--full-width]

Three networks of the same size in one process, in turn: MindSpore's operators alone (as with
MINDFORMERS_QWENVL_KERNELS=off), this package's kernels for decoding, and these with the language model's weights as
float16. The ratios are to the first, round by round.

Yardsticks: the best MatMul rate, and the rate at which numpy reads a matrix to multiply it with one row. Decoding one
token reads every weight of the language model once; vision and prefill are as good as their matrix products. On a
shared machine both yardsticks change within minutes, so each round measures them again, beside what they are for, and
the percentages are medians over the rounds. What a token costs beside reading is seen from a network with as many
layers whose weights are small.

`--full-width` builds 4 of the 9.6B network's 32 layers at their full width with float16 weights (6 GB of memory)
instead, and projects a token of all 32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from itertools import pairwise

from tests.bench.host import prepare

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


def build(use_past: bool, weights: str = "float32", **freeze: bool):
    from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLVisionConfig

    types = {"compute_dtype": "float32", "param_init_type": "float32"}
    vision = QwenVLVisionConfig(
        hidden_size=VISION_WIDTH, num_hidden_layers=VISION_LAYERS, num_attention_heads=VISION_HEADS, image_size=IMAGE,
        output_dim=HIDDEN, num_queries=QUERIES, **types,
    )  # fmt: skip
    llm = QwenConfig(
        hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, intermediate_size=MLP, vocab_size=VOCAB,
        seq_length=2048, use_past=use_past, block_size=16, num_blocks=128, **{**types, "param_init_type": weights},
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


def language_model(hidden: int, head: int, mlp: int, layers: int, weights: str = "float32"):
    """A `QwenForCausalLM` with a cache, of `hidden // head` heads."""
    from mindformers_qwenvl import QwenConfig, QwenForCausalLM

    config = QwenConfig(
        hidden_size=hidden, kv_channels=head, num_heads=hidden // head, intermediate_size=mlp, num_layers=layers,
        vocab_size=VOCAB, seq_length=2048, use_past=True, block_size=16, num_blocks=128, compute_dtype="float32",
        param_init_type=weights,
    )  # fmt: skip
    return QwenForCausalLM(config).set_train(False)


def read_by_a_token(language_model) -> int:
    """Bytes of weights: all but the embeddings, of which a token reads one row."""
    weights = (p for p in language_model.get_parameters() if "cache" not in p.name and "wte" not in p.name)
    return sum(p.nbytes for p in weights)


def with_kernels(on: bool) -> None:
    """Switch them for the networks that are built from now on."""
    from mindformers_qwenvl.model.ops.cpu.kernels import SWITCH, library

    os.environ[SWITCH] = "on" if on else "off"
    library.cache_clear()
    if on and library() is None:
        raise SystemExit("there are no kernels on this machine; the log above says why")


class Form:
    """A network in one of the forms to compare, and what was measured of it."""

    def __init__(self, name: str, network, inputs: dict):
        self.name, self.network, self.inputs = name, network, inputs
        self.vision, self.prefill, self.decode, self.rows = Measure(), Measure(), Measure(), Measure()
        self.stamps = Stamps()

    def answer(self, ids, tokens: int, **inputs):
        """Seconds to each token but the first, and the ids."""
        self.stamps.clear()
        stamps = self.stamps if len(ids) == 1 else None  # the host streams single answers only
        settings = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": [-1]}
        out = self.network.generate(ids, streamer=stamps, **settings, **inputs)
        return seconds_between(self.stamps.times), [list(row[-tokens:]) for row in out]

    def batch_seconds(self, ids, tokens: int) -> float:
        """Seconds of a token of each row, without the prompts'."""
        start = time.perf_counter()
        self.answer(ids, 2)
        middle = time.perf_counter()
        self.answer(ids, 2 + tokens)
        return (time.perf_counter() - middle - (middle - start)) / tokens


def seconds_between(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    parser.add_argument("--rounds", type=int, default=5, help="times to measure everything")
    parser.add_argument("--full-width", action="store_true", help="4 layers of the 9.6B network instead")
    args = parser.parse_args()
    prepare(args.threads)
    return full_width(args.tokens, args.rounds) if args.full_width else compare(args.tokens, args.rounds)


def compare(tokens: int, rounds: int) -> int:
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    random = np.random.RandomState(0)
    peak, bandwidth = yardsticks(random)
    image = Tensor(random.randn(1, 3, IMAGE, IMAGE).astype(np.float32))
    ids = random.randint(0, 150000, (1, PROMPT)).astype(np.int32)
    eight = random.randint(0, 150000, (8, 64)).astype(np.int32)
    positions = np.stack([np.zeros(QUERIES), np.arange(20, 20 + QUERIES)], -1).astype(np.int32)
    inputs = {
        "images": image.reshape(1, 1, 3, IMAGE, IMAGE),
        "image_context_pos": Tensor(positions.reshape(1, 1, QUERIES, 2)),
    }
    forms = []
    for name, on, weights in (
        ("MindSpore's operators", False, "float32"),
        ("kernels", True, "float32"),
        ("kernels, float16 weights", True, "float16"),
    ):
        with_kernels(on)
        ms.set_seed(1)
        forms.append(Form(name, build(use_past=True, weights=weights), inputs))
    thin = Form("thin", language_model(64, 8, 172, LAYERS), {})
    plain = forms[0]
    parameters = [p for p in plain.network.get_parameters() if not p.name.endswith("_cache")]
    print(f"network: {sum(p.size for p in parameters) / 1e6:.1f} M parameters")
    answers = []
    for form in (*forms, thin):
        for _ in range(2):
            _, found = form.answer(ids, tokens, **form.inputs)
        form.answer(eight, 4)
        answers.append(found)
    for form, found in zip(forms[1:], answers[1:], strict=False):
        equal = sum(a == b for a, b in zip(found[0], answers[0][0], strict=True))
        print(f"{form.name}: {equal} of {tokens} greedy ids are those of {plain.name}")

    for _ in range(rounds):
        for form in forms:
            encoder = form.network.vision_encoder
            form.vision.add(timed(lambda encoder=encoder: encoder(image).asnumpy(), 3), vision_flops(), peak())
            first = statistics.median(form.answer(ids, 2, **inputs)[0][0] for _ in range(3))
            form.prefill.add(first, prefill_flops(PROMPT) + vision_flops(), peak())
            read = read_by_a_token(form.network.llm_model)
            form.decode.add(statistics.median(form.answer(ids, tokens, **inputs)[0][1:]), read, bandwidth())
            form.rows.add(form.batch_seconds(eight, tokens // 2), read, bandwidth())
        thin.decode.add(statistics.median(thin.answer(ids, tokens)[0][1:]), read_by_a_token(thin.network), bandwidth())
    for form in forms:
        print(f"\n{form.name}")
        print(f"  vision, one image      {form.vision.seconds:7.3f} s    {form.vision.of('GFLOP/s of MatMul 1024^3')}")
        print(f"  prefill, {PROMPT} tokens    {form.prefill.seconds:7.3f} s    "
              f"{form.prefill.of('GFLOP/s of MatMul 1024^3')}")  # fmt: skip
        print(f"  decode                 {1 / form.decode.seconds:7.1f} tok/s {form.decode.of('GB/s of reading')}")
        print(f"  decode, 8 rows         {8 / form.rows.seconds:7.1f} tok/s {form.decode.ratio(form.rows) * 8:6.2f} "
              "times one row's")  # fmt: skip
        if form is plain:
            continue
        parts = ("vision", "prefill", "decode", "rows")
        speeds = (f"{part} {getattr(plain, part).ratio(getattr(form, part)):.2f}" for part in parts)
        print(f"  times the plain form   {', '.join(speeds)}")
        rest = statistics.median(seconds - size / rate for seconds, size, rate in thin.decode.totals())
        share = statistics.median(size / rate / (seconds - rest) for seconds, size, rate in form.decode.totals())
        print(f"  without the {rest * 1e3:.1f} ms that a token takes beside reading: {share:.0%} of reading")
    return 0


def full_width(tokens: int, rounds: int) -> int:
    """4 layers of 32, at full width, with float16 weights: seconds of a layer and of the rest, and the projection."""
    import numpy as np

    random = np.random.RandomState(0)
    _, bandwidth = yardsticks(random)
    with_kernels(True)
    form = Form("4 layers", language_model(4096, 128, 11008, 4, "float16"), {})
    model = form.network
    head = model.lm_head.weight.nbytes
    layers = read_by_a_token(model) - head
    ids = random.randint(0, 150000, (1, 64)).astype(np.int32)
    form.answer(ids, 4)
    for _ in range(rounds):
        form.decode.add(statistics.median(form.answer(ids, tokens)[0][1:]), head + layers, bandwidth())
    seconds = form.decode.seconds
    a_layer = seconds * layers / 4 / (head + layers)  # both are products of one row: time goes by bytes
    print(f"4 layers of width 4096, float16 weights, {(head + layers) / 1e9:.2f} GB read for a token")
    print(f"decode                 {1 / seconds:7.1f} tok/s {form.decode.of('GB/s of reading')}")
    print(f"a layer                {a_layer * 1e3:7.1f} ms    {1 / a_layer:.0f} layers/s")
    print(f"projection for 32 layers, not measured: {1 / (seconds + 28 * a_layer):.2f} tokens/s")
    return 0


def yardsticks(random):
    """Two functions: FLOP/s of the best matrix product, bytes/s of reading a matrix."""
    import numpy as np
    from mindspore import Tensor, ops

    a, b = (Tensor(random.randn(1024, 1024).astype(np.float32)) for _ in range(2))
    square = ops.MatMul()
    matrix, row = random.randn(VOCAB, HIDDEN).astype(np.float32), random.randn(HIDDEN).astype(np.float32)

    def peak() -> float:
        return 2 * 1024**3 / timed(lambda: square(a, b).asnumpy(), 15, 3)

    def bandwidth() -> float:
        return matrix.nbytes / timed(lambda: matrix @ row, 5, 1)

    return peak, bandwidth


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

    def totals(self) -> list[tuple[float, float, float]]:
        """Of each round: seconds, FLOP or bytes, and the yardstick of that round."""
        return [(seconds, rate * seconds, yardstick) for seconds, rate, yardstick in self.rows]

    def ratio(self, faster: Measure) -> float:
        """How many times the speed of this `faster` has, by rounds."""
        pairs = zip(self.rows, faster.rows, strict=True)
        return statistics.median(mine[0] / its[0] for mine, its in pairs)

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
