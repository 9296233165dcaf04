"""What an adapter costs on this CPU: prefill and decoding with and without, memory and time of a training step.

    python -m tests.bench.bench_adapters [--rounds 3] [--tokens 16] [--part speed|memory|all]

The network of bench_inference.py (448M parameters, float32), with the published adapter: rank 64, c_attn, attn.c_proj,
w1 and w2. Prefill and decoding of both networks are measured in turn, in one process. Each training is a process of its
own: how far its resident memory grows from before the network is built to the fullest moment of three steps. Full
training needs some 12 GB of memory that is free. On two idle cores all of it takes less than eight minutes; a part that
takes longer than that is stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_inference import HIDDEN, IMAGE, PROMPT, QUERIES, Stamps, build
from tests.bench.bench_memory import status
from tests.bench.host import prepare

ROOT = Path(__file__).parents[2]
PET = {"pet_type": "lora", "lora_rank": 64, "lora_alpha": 16, "lora_dropout": 0.0}
MB = 1024**2
ROWS = 1
THREADS = 2
STEPS = 3
LONGEST = 480  # seconds of a part


def speed(rounds: int, tokens: int) -> None:
    """Medians of both networks, measured in turn."""
    prepare(THREADS)
    import numpy as np
    from mindspore import Tensor

    random = np.random.RandomState(0)
    ids = random.randint(0, 150000, (1, PROMPT)).astype(np.int32)
    positions = np.stack([np.zeros(QUERIES), np.arange(20, 20 + QUERIES)], -1).astype(np.int32)
    image = Tensor(random.randn(1, 1, 3, IMAGE, IMAGE).astype(np.float32))
    inputs = {"images": image, "image_context_pos": Tensor(positions.reshape(1, 1, QUERIES, 2))}
    stamps = Stamps()
    networks = {"without": build(use_past=True), "with": build(use_past=True, pet_config=PET)}
    for parameter in networks["with"].get_parameters():
        if ".lora_b." in parameter.name:
            parameter.set_data(Tensor(0.01 * random.randn(*parameter.shape).astype(np.float32)))

    def answer(network, count):
        stamps.clear()
        network.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=[-1], streamer=stamps, **inputs)
        return np.diff(stamps.times)

    found = {(what, name): [] for what in ("prefill", "decode") for name in networks}
    for network in networks.values():
        answer(network, 4)
    for _ in range(rounds):
        for name, network in networks.items():
            found["prefill", name].append(statistics.median(answer(network, 2)[0] for _ in range(3)))
            found["decode", name].append(statistics.median(answer(network, tokens)[1:]))
    for what, most in (("prefill", 0.10), ("decode", 0.15)):
        plain, adapted = (statistics.median(found[what, name]) for name in ("without", "with"))
        shares = [b / a - 1 for a, b in zip(found[what, "without"], found[what, "with"], strict=True)]
        share = statistics.median(shares)
        verdict = "" if share <= most else "  MORE THAN WANTED"
        print(
            f"{what:<8} without {plain:7.4f} s   with {adapted:7.4f} s   {share:+6.1%} (at most {most:.0%}){verdict}",
            flush=True,
        )


def measure(kind: str) -> None:
    """Print MB and seconds of a step, full training or an adapter's."""
    prepare(THREADS)
    import numpy as np
    from mindspore import Tensor

    from mindformers_qwenvl.training.optimizer import QwenVLAdamW
    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    random = np.random.RandomState(0)
    ids = Tensor(random.randint(0, 150000, (ROWS, 513)).astype(np.int32))
    images = Tensor(random.randn(ROWS, 1, 3, IMAGE, IMAGE).astype(np.float32))
    positions = np.zeros((ROWS, 1, QUERIES, 2), np.int32)
    positions[..., 1] = np.arange(4, 4 + QUERIES)
    before = status("VmRSS")
    network = build(use_past=False, **({"pet_config": PET} if kind == "adapter" else {}))
    optimizer = QwenVLAdamW(network.trainable_params(), learning_rate=1e-5, weight_decay=0.1)
    step = QwenVLTrainOneStepCell(network, optimizer, use_clip_grad=True).set_train()
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step(ids, images, Tensor(positions), ids)[0].asnumpy()
        seconds.append(time.perf_counter() - start)
    trained = sum(parameter.size for parameter in network.trainable_params())
    print(f"MEASURED {trained} {(status('VmHWM') - before) / MB:.0f} {statistics.median(seconds[1:]):.2f}")


def memory() -> None:
    """Full training and an adapter's, each in a process of its own."""
    print(f"a step of {ROWS} x 512 tokens and {ROWS} picture, width {HIDDEN}", flush=True)
    used = {}
    for kind in ("adapter", "full"):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-m", "tests.bench.bench_adapters", "--part", kind]
            ended = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST
            )
        if ended.returncode == -signal.SIGKILL:
            raise RuntimeError(f"the {kind} training was killed: this machine has not enough free memory for it")
        if ended.returncode:
            printed = (ended.stdout + ended.stderr)[-3000:]
            raise RuntimeError(f"the {kind} training ended with {ended.returncode}:\n{printed}")
        [line] = [line for line in ended.stdout.splitlines() if line.startswith("MEASURED ")]
        trained, used[kind], seconds = (float(number) for number in line.split()[1:])
        print(f"{kind:<8} {trained:>13,.0f} parameters learn   {used[kind]:8,.0f} MB   {seconds} s a step", flush=True)
    print(f"the adapter's step needs {used['adapter'] / used['full']:.0%} of the memory of full training")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--part", choices=["speed", "memory", "all", "full", "adapter"], default="all")
    args = parser.parse_args()
    if args.part in ("full", "adapter"):
        measure(args.part)
        return 0
    if args.part in ("speed", "all"):
        speed(args.rounds, args.tokens)
    if args.part in ("memory", "all"):
        memory()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
