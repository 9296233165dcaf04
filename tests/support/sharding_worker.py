"""One worker of a sharded job: compiles a graph of Qwen-VL on a stub device and writes what it found as JSON.

    python worker.py '{"task": "train", "dp": 2, "mp": 2}' report.json      # the keys: see `TASK`

The steps are those of MindFormers' trainer: the same context, the same cells around the network.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import init
from mindspore.nn.utils import no_init_parameters
from mindspore.nn.wrap.cell_wrapper import PipelineCell, _VirtualDatasetCell
from mindspore.parallel import set_algo_parameters

TASK = {
    "task": "train",  # or prefill, decode; or a server's served_vision, served_prefill, served_decode
    "dp": 1,
    "mp": 1,
    "pp": 1,
    "optimizer_parallel": False,
    "full_batch": True,
    "vocab_emb_dp": False,
    "vision_lr_decay": 1.0,
    "fused": True,  # the operators of Ascend; False: the plain ones of CPU
    "model": {},  # changes to SMALL
    "wrong": None,  # "heads" or "rows": one layer gets a strategy that is none
}
SMALL = {
    "vision_model": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 56,
        "use_flash_attention": False,
    },
    "llm_model": {
        "hidden_size": 512,
        "num_layers": 1,
        "num_heads": 4,
        "kv_channels": 128,
        "intermediate_size": 352,
        "vocab_size": 1024,
        "seq_length": 128,
        "train_seq_length": 64,
        "num_blocks": 64,
        "eos_token_id": 800,
        "pad_token_id": 800,
        "use_flash_attention": True,
    },
    "num_queries": 16,
    "image_start_id": 1014,
    "compute_dtype": "float16",
    "param_init_type": "float32",
}
IMAGES = 2  # of a sample
PER_CARD = 2  # samples of a card, and of a micro batch


def main(task: dict, report: Path) -> None:
    task = {**TASK, **task}
    network, config = build(task)
    shapes = {parameter.name: list(parameter.shape) for parameter in network.get_parameters()}  # before they are cut
    rows, named = PER_CARD * task["dp"], {}
    if task["task"].startswith("served_"):
        step, inputs, named = served(network.set_train(False), task["task"])
    elif task["task"] == "train":
        rows *= task["pp"]
        step = train_step(network, task["pp"], task["vision_lr_decay"])
        inputs = batch(config, rows if task["full_batch"] else rows // task["dp"])
    else:
        step = network.set_train(False)
        inputs = list(network.prepare_inputs_for_predict_layout(np.ones((rows, 64))))
        if task["task"] == "decode":
            inputs[0] = Tensor(np.ones((rows, 1)), ms.int32)
            inputs[1] = inputs[2] = None
            inputs[-1] = Tensor(np.zeros(rows, np.int32))
    if task["wrong"]:
        spoil(network, task["wrong"], task["dp"], task["mp"])
    for parameter in step.get_parameters():
        parameter.init_param = True  # MindSpore need not allocate it
    step.compile(*inputs, **named)
    found = {
        "layouts": {
            name: {"devices": devices, "map": tensor_map, "slice": piece, "optimizer_group": group}
            for name, (devices, tensor_map, piece, _, _, group, *_) in step.parameter_layout_dict.items()
        },
        "strategies": strategies(step),
        "whole": cells_of_whole_tensors(step),
        "shapes": shapes,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    report.write_text(json.dumps(found))


def build(task: dict):
    ms.set_context(mode=ms.GRAPH_MODE, max_call_depth=10000)
    ms.set_device("GPU")
    init()
    dp = task["dp"]
    batched = {} if task["full_batch"] else {"dataset_strategy": ((dp, 1), (dp, 1, 1, 1, 1), (dp, 1, 1, 1), (dp, 1))}
    ms.set_auto_parallel_context(
        parallel_mode="semi_auto_parallel",
        full_batch=task["full_batch"],
        pipeline_stages=task["pp"],
        enable_parallel_optimizer=task["optimizer_parallel"],
        parallel_optimizer_config={"parallel_optimizer_threshold": 0},
        **batched,
    )
    set_algo_parameters(elementwise_op_strategy_follow=True, fully_use_devices=True)  # as MindFormers sets them

    from mindformers_qwenvl import QwenVL, QwenVLConfig
    from mindformers_qwenvl.model.ops.device import on_ascend

    if task["fused"]:
        # What the device seam builds on Ascend: its operators have a strategy each, although not a kernel here. In
        # place, for all modules that have imported the function.
        on_ascend.__code__ = (lambda: True).__code__
    parallel = {
        "data_parallel": dp,
        "model_parallel": task["mp"],
        "pipeline_stage": task["pp"],
        "micro_batch_num": task["pp"],
        "vocab_emb_dp": task["vocab_emb_dp"],
    }
    changes = task["model"]
    settings = {**SMALL, **changes}
    for part in ("vision_model", "llm_model"):
        settings[part] = {**SMALL[part], **changes.get(part, {})}
    with no_init_parameters():
        config = QwenVLConfig(**settings, use_past=task["task"] != "train", parallel_config=parallel)
        return QwenVL(config), config


def train_step(network: nn.Cell, stages: int, vision_lr_decay: float) -> nn.Cell:
    """The cells that MindFormers' trainer puts around the network, and the train step with optimizer and clipping."""
    from mindformers.core.lr import CosineWithWarmUpLR
    from mindformers.wrapper import MFPipelineWithLossScaleCell

    from mindformers_qwenvl.training.optimizer import QwenVLAdamW
    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    wrapped = PipelineCell(network, micro_size=stages) if stages > 1 else network
    wrapped = _VirtualDatasetCell(wrapped)
    rate = CosineWithWarmUpLR(1e-5, 2, 10)
    optimizer = QwenVLAdamW(network.trainable_params(), rate, weight_decay=0.1, vision_lr_decay=vision_lr_decay)
    settings = {"use_clip_grad": True, "scale_sense": nn.DynamicLossScaleUpdateCell(65536, 2, 1000)}
    if stages > 1:
        return MFPipelineWithLossScaleCell(wrapped, optimizer, micro_batch_num=stages, **settings).set_train()
    return QwenVLTrainOneStepCell(wrapped, optimizer, **settings).set_train()


def served(network: nn.Cell, task: str) -> tuple[nn.Cell, list[Tensor], dict[str, Tensor]]:
    """The cell that a server calls, and what it gives it."""
    from mindformers_qwenvl.chat.steps import Steps
    from mindformers_qwenvl.text.rows import ImageSpan, Row

    class Given(Steps):
        def _run(self, phase: str, **inputs: Tensor) -> np.ndarray:
            self.inputs = inputs
            return np.zeros((PER_CARD, 1))

    if task == "served_vision":
        side = network.config.vision.image_size
        return network.vision_encoder, [Tensor(np.zeros((1, 3, side, side), np.float32))], {}
    steps = Given(network, PER_CARD, 64)
    if task == "served_prefill":
        vectors = np.zeros((steps.slots, steps.width), np.float32)
        prompt = Row(np.ones(40, np.int32), spans=(ImageSpan(4, 4 + steps.slots),))
        steps.prefill(prompt, [vectors], range(steps.blocks_of(40)))
    else:
        steps.decode([1] * PER_CARD, [40] * PER_CARD, [30] * PER_CARD, [range(steps.blocks_of(64))] * PER_CARD)
    return network, [], steps.inputs


def batch(config, rows: int) -> tuple[Tensor, ...]:
    length, side = config.llm.train_seq_length + 1, config.vision.image_size
    tokens = Tensor(np.ones((rows, length)), ms.int32)
    images = Tensor(np.zeros((rows, IMAGES, 3, side, side)), ms.float32)
    positions = Tensor(np.zeros((rows, IMAGES, config.num_queries, 2)), ms.int32)
    return tokens, images, positions, tokens


def spoil(network: nn.Cell, how: str, dp: int, mp: int) -> None:
    layer = network.llm_model.transformer.layers[0]
    if how == "heads":  # the two sides of a product do not fit
        layer.attention.wo.shard(strategy_matmul=((dp, mp), (1, 1)))
    elif how == "rows":  # a layer that fits, but is not split at all
        layer.feed_forward.w1.shard(strategy_matmul=((dp, 1), (1, 1)))
    else:
        raise ValueError(how)


def cells_of_whole_tensors(step: nn.Cell) -> list[str]:
    """Cells that have taken a form which is for graphs without sharding."""
    from mindformers_qwenvl.model.ops.cpu.forms import BiasAdd, RowNorm
    from mindformers_qwenvl.model.ops.gradients import SquareSum

    switches = ("one_by_one", "repeats", "in_place", "one_pass", "picks_positions", "plain")
    return [
        name
        for name, cell in step.cells_and_names()
        if isinstance(cell, BiasAdd | RowNorm | SquareSum) or any(vars(cell).get(switch) for switch in switches)
    ]


def strategies(step: nn.Cell) -> dict[str, list]:
    from mindspore.graph.api import _cell_graph_executor

    return dict(_cell_graph_executor._get_shard_strategy(step))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
    # The no-op libraries have nothing to tear down, and some of it would be done twice.
    sys.stdout.flush()
    os._exit(0)
