"""A tiny Qwen-VL that learns for three steps and answers, on the device that MindSpore uses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from mindformers_qwenvl.doctor.findings import FAILED, OK, Finding
from mindformers_qwenvl.doctor.process import Broken, call

__all__ = ["trial"]

VOCABULARY, SLOTS, LENGTH, STEPS, ANSWER = 512, 16, 48, 3, 6
START = 400  # id of <img>
HIDDEN, HEADS = 256, 2  # heads of 128, as the real model has them: the fused operators take those


def _network(**settings: Any) -> Any:
    import mindspore as ms

    from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLVisionConfig
    from mindformers_qwenvl.model.ops import fused_or_plain

    ms.set_seed(0)
    dtype = fused_or_plain("float16", "float32")  # the fused operators take half floats
    vision = QwenVLVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    language = QwenConfig(
        seq_length=LENGTH,
        hidden_size=HIDDEN,
        num_layers=2,
        num_heads=HEADS,
        kv_channels=HIDDEN // HEADS,
        vocab_size=VOCABULARY,
        intermediate_size=320,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
        max_decode_length=LENGTH,
    )
    config = QwenVLConfig(
        vision_model=vision,
        llm_model=language,
        num_queries=SLOTS,
        image_start_id=START,
        compute_dtype=dtype,
        param_init_type="float32",
        freeze_vision=False,
        **settings,
    )
    return QwenVL(config)


def _batch() -> tuple[Any, ...]:
    """ids [1, S + 1], images, positions, labels: one picture and some text."""
    import numpy as np

    random = np.random.RandomState(0)
    ids = random.randint(0, START, (1, LENGTH + 1)).astype(np.int32)
    ids[0, : SLOTS + 2] = [START, *[START + 2] * SLOTS, START + 1]
    images = random.randn(1, 1, 3, 56, 56).astype(np.float32)
    positions = np.zeros((1, 1, SLOTS, 2), np.int32)
    positions[0, 0, :, 1] = np.arange(1, SLOTS + 1)
    labels = np.where(np.arange(LENGTH + 1) > SLOTS + 1, ids, -100).astype(np.int32)
    return ids, images, positions, labels


def learn() -> dict[str, Any]:
    """Runs in a separate process: the losses of three train steps on one batch."""
    import mindspore as ms
    from mindspore import nn

    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    ms.set_context(mode=ms.GRAPH_MODE)
    network = _network().set_train(True)
    optimizer = nn.SGD(network.trainable_params(), learning_rate=0.05)
    step = QwenVLTrainOneStepCell(network, optimizer, use_clip_grad=True, max_grad_norm=1.0, scale_sense=1.0)
    step.set_train(True)
    batch = [ms.Tensor(array) for array in _batch()]
    losses, began = [], time.perf_counter()
    for _ in range(STEPS):
        losses.append(float(step(*batch)[0].asnumpy()))
    return {"losses": losses, "seconds": time.perf_counter() - began}


def answer() -> dict[str, Any]:
    """Runs in a separate process: an answer with the key/value cache, and the same without one."""
    import mindspore as ms
    import numpy as np

    ms.set_context(mode=ms.GRAPH_MODE)
    ids, images, positions, _ = _batch()
    prompt = ids[:, : LENGTH - ANSWER - 8]
    given = {"images": ms.Tensor(images), "image_context_pos": ms.Tensor(positions)}
    began, rows = time.perf_counter(), []
    for cached in (True, False):
        network = _network(use_past=cached, block_size=16, num_blocks=16).set_train(False)
        found = network.generate(prompt, max_new_tokens=ANSWER, do_sample=False, eos_token_id=[-1], **given)
        rows.append([int(token) for token in np.asarray(found[0])[-ANSWER:]])
    return {"cached": rows[0], "plain": rows[1], "seconds": time.perf_counter() - began}


def trial() -> Iterator[Finding]:
    """Train and answer."""
    section = "Trial, at tiny size"
    try:
        learnt = call(__name__, "learn")
        losses = learnt["losses"]
        good = all(map(math.isfinite, losses)) and losses[-1] < losses[0]
        detail = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {STEPS} steps, {learnt['seconds']:.0f} s with compiling"
        yield Finding(section, "train step", OK if good else FAILED, detail if good else f"it does not learn: {detail}")
    except Broken as error:
        yield Finding(section, "train step", FAILED, str(error))
    try:
        said = call(__name__, "answer")
        good = said["cached"] == said["plain"]
        detail = f"{ANSWER} tokens, the same with and without a cache, {said['seconds']:.0f} s with compiling"
        if not good:
            detail = f"the tokens differ: with a cache {said['cached']}, without one {said['plain']}"
        yield Finding(section, "generation", OK if good else FAILED, detail)
    except Broken as error:
        yield Finding(section, "generation", FAILED, str(error))
