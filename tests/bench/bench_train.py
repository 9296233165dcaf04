"""One training step of a 448M-parameter Qwen-VL on this CPU: time, rate beside the best MatMul, and peak memory.

    python -m tests.bench.bench_train [--threads 2] [--steps 4] [--freeze-vision]

512 tokens, one sample with one picture of 448 pixels, float32, QwenVLAdamW with clipping, through the train step of the
YAMLs. All parts learn, or (--freeze-vision) the resampler and the language model, which is stage 3 of the paper.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

from tests.bench.bench_inference import HIDDEN, IMAGE, LAYERS, MLP, QUERIES, VOCAB, build, timed, vision_flops
from tests.bench.host import prepare

LENGTH, FIRST_SLOT = 512, 20


def sample():
    """ids and labels int32 [1, LENGTH + 1], pixels float32, positions; labels on everything after the picture."""
    import numpy as np

    random = np.random.RandomState(0)
    ids = random.randint(0, 150000, (1, LENGTH + 1)).astype(np.int32)
    labels = np.where(np.arange(LENGTH + 1) > FIRST_SLOT + QUERIES + 15, ids, -100).astype(np.int32)
    images = random.randn(1, 1, 3, IMAGE, IMAGE).astype(np.float32)
    slots = np.stack([np.zeros(QUERIES), np.arange(FIRST_SLOT, FIRST_SLOT + QUERIES)], -1)
    return ids, images, slots.reshape(1, 1, QUERIES, 2).astype(np.int32), labels


def step_flops(freeze_vision: bool, labels: int) -> float:
    """Forward, and twice as much backward for what learns; the head counts at the label tokens only."""
    layer = LENGTH * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * MLP) + 2 * LENGTH * LENGTH * HIDDEN
    language = 2.0 * (LAYERS * layer + labels * HIDDEN * VOCAB)
    return 3 * language + (1 if freeze_vision else 3) * vision_flops()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="steps to time, after two that are not")
    parser.add_argument("--freeze-vision", action="store_true")
    args = parser.parse_args()
    prepare(args.threads)
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    from mindformers_qwenvl.training.optimizer import QwenVLAdamW
    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    a, b = (Tensor(np.random.RandomState(seed).randn(1024, 1024).astype(np.float32)) for seed in (0, 1))
    square = ops.MatMul()
    peak = 2 * 1024**3 / timed(lambda: square(a, b).asnumpy(), 30, 5) / 1e9

    network = build(use_past=False, freeze_vision=args.freeze_vision).set_train()
    learning = network.trainable_params()
    optimizer = QwenVLAdamW([{"params": learning}], learning_rate=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    scale = Tensor(1.0, ms.float32)
    step = QwenVLTrainOneStepCell(network, optimizer, use_clip_grad=True, max_grad_norm=1.0, scale_sense=scale)
    step.set_train()
    inputs = sample()
    tensors = [Tensor(column) for column in inputs]
    losses, seconds = [], []
    for _ in range(args.steps + 2):
        start = time.perf_counter()
        losses.append(float(step(*tensors)[0].asnumpy()))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    rate = step_flops(args.freeze_vision, int((inputs[3] != -100).sum())) / median / 1e9
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"MatMul 1024^3    {peak:8.1f} GFLOP/s")
    print(f"learning         {sum(p.size for p in learning) / 1e6:8.1f} M parameters")
    print(f"loss             {losses[0]:8.3f} to {losses[-1]:.3f} in {len(losses)} steps")
    print(f"compilation      {seconds[0] - median:8.1f} s")
    print(f"step             {median:8.2f} s   {rate:.1f} GFLOP/s, {rate / peak:.1%} of MatMul")
    print(f"peak memory      {memory:8.1f} GB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
