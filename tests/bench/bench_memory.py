"""What `mindformers-qwenvl estimate` says of a CPU, beside what real train steps on this CPU use.

    python -m tests.bench.bench_memory [--layers 2] [--tokens 64] [--rows 1]

finetune_qwenvl_tiny.yaml, widened to some 50M parameters (--layers 6: 120M; every layer is 17M), so that weights,
gradients and optimizer states outweigh the rest. Each line is a process of its own: how far its resident memory grows
from before the network is built to the fullest moment of three steps.

    gradients   loss and gradients, no optimizer
    QwenVLAdamW QwenVLTrainOneStepCell with the optimizer of the YAMLs, which updates in place
    AdamW       QwenVLTrainOneStepCell with MindFormers' AdamW: a dozen small operators a parameter

With 512 tokens or more a line says what activations give: a CPU was seen to use 3.7 to 3.9 times what the backward pass
needs, which is what `estimate` counts. Its runtime seems to keep most arrays to the end of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mindformers_qwenvl.estimate import Card, Estimate, activations, estimate, read_job
from mindformers_qwenvl.recipes.section import read_yaml
from mindformers_qwenvl.registration import yaml_dir
from tests.bench.host import prepare

ROOT, TINY = Path(__file__).parents[2], yaml_dir() / "finetune_qwenvl_tiny.yaml"
MB = 1024**2
STEPS = 3
THREADS = 2
KINDS = ("gradients", "QwenVLAdamW", "AdamW")


def changes(layers: int, tokens: int, rows: int) -> list[str]:
    """Of the YAML, as `estimate --set` takes them."""
    llm = {"hidden_size": 1024, "num_layers": layers, "num_heads": 8, "kv_channels": 128, "intermediate_size": 4096}
    llm |= {"vocab_size": 6000, "seq_length": tokens}
    sizes = [f"model.model_config.llm_model.model_config.{key}={value}" for key, value in llm.items()]
    return [
        *sizes,
        f"train_dataset.modal_to_text_transform.max_length={tokens}",
        f"runner_config.batch_size={rows}",
    ]


def expected(kind: str, settings: list[str]) -> int:
    """Bytes of weights, gradients and optimizer states, without activations."""
    (card,) = estimated(kind, settings).cards
    return card.weights + card.gradients if kind == "gradients" else card.held + card.moments["update"]


def estimated(kind: str, settings: list[str]) -> Estimate:
    optimizer = "QwenVLAdamW" if kind == "gradients" else kind
    return estimate(read_job(TINY, [*settings, f"optimizer.type={optimizer}"]))


def measured(kind: str, settings: list[str]) -> int:
    """Bytes by which the resident memory of a fresh process grows."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, "-m", "tests.bench.bench_memory", "--measure", kind, json.dumps(settings)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    return int(ended.stdout.splitlines()[-1])


def status(key: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def run(kind: str, settings: list[str]) -> int:
    prepare(THREADS)
    import mindspore as ms
    import numpy as np
    from mindformers import MindFormerConfig
    from mindformers.core.optim.adamw import AdamW
    from mindformers.models import build_network
    from mindspore import Tensor, nn, ops

    from mindformers_qwenvl.registration import register
    from mindformers_qwenvl.training.optimizer import QwenVLAdamW
    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    class Gradients(nn.Cell):
        def __init__(self, network):
            super().__init__()
            self.network, self.weights = network, ms.ParameterTuple(network.trainable_params())
            self.grad = ops.GradOperation(get_by_list=True)

        def construct(self, *inputs):
            loss = self.network(*inputs)
            return ops.depend(loss, self.grad(self.network, self.weights)(*inputs))

    def train(settings: list[str], steps: int) -> None:
        config = MindFormerConfig(**read_yaml(TINY, settings).content)
        model, rows = config.model.model_config, config.runner_config.batch_size
        tokens, queries = model.llm_model.model_config.seq_length, model.num_queries
        side = model.vision_model.model_config.image_size
        random = np.random.RandomState(0)
        ids = Tensor(random.randint(0, 800, (rows, tokens + 1)).astype(np.int32))
        images = Tensor(random.randn(rows, 1, 3, side, side).astype(np.float32))
        positions = np.zeros((rows, 1, queries, 2), np.int32)
        positions[..., 1] = np.arange(4, 4 + queries)
        network = build_network(config.model)
        if kind == "gradients":
            step = Gradients(network)
        else:
            optimizer = AdamW if kind == "AdamW" else QwenVLAdamW
            chosen = optimizer(network.trainable_params(), learning_rate=1e-4, eps=1e-8, weight_decay=0.1)
            step = QwenVLTrainOneStepCell(network, chosen, use_clip_grad=True)
        step.set_train()
        for _ in range(steps):
            out = step(ids, images, Tensor(positions), ids)
            (out[0] if isinstance(out, tuple) else out).asnumpy()

    register()
    train(["runner_config.batch_size=1"], 1)  # loads what compiling and computing need
    before = status("VmRSS")
    train(settings, STEPS)
    return status("VmHWM") - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        kind, settings = args.measure
        print(run(kind, json.loads(settings)))
        return 0
    settings = changes(args.layers, args.tokens, args.rows)
    found = estimated("QwenVLAdamW", settings)
    card: Card = found.cards[0]
    print(f"{found.parameters / 1e6:.1f}M parameters, {args.rows} x {args.tokens} tokens, float32; MB")
    for name in ("weights", "gradients", "optimizer", "activations"):
        print(f"  {name:<12}{getattr(card, name) / MB:10.0f}")
    print(f"{'':12}{'estimate':>10}{'measured':>10}{'difference':>12}")
    for kind in args.kinds:
        said, used = expected(kind, settings), measured(kind, settings)
        print(f"{kind:<12}{said / MB:>10.0f}{used / MB:>10.0f}{used / said - 1:>+12.1%}", flush=True)
        if kind == "gradients" and args.rows * args.tokens >= 512:
            kept, more = card.activations + activations.head_and_loss(read_job(TINY, settings))[1], used - said
            print(f"  activations{kept / MB:>10.0f}{more / MB:>10.0f}{more / kept:>11.1f}x  (what is beside the two)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
