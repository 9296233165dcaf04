"""`callbacks: - type: QwenVLAdapterMonitor`: loads the adapter that a training begins with, writes the trained one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindformers.tools.utils import get_output_root_path, get_real_rank
from mindspore import nn
from mindspore.train.callback import Callback

from mindformers_qwenvl.adapters.network import low_rank_parameters
from mindformers_qwenvl.adapters.settings import AdapterSettings, from_pet_config
from mindformers_qwenvl.adapters.switch import AdapterSwitch
from mindformers_qwenvl.adapters.tensors import SAVED, factor_of, peft_name
from mindformers_qwenvl.adapters.writer import write_adapter
from mindformers_qwenvl.host.callbacks import saved_checkpoint
from mindformers_qwenvl.host.context import is_sharded, pipeline_stages
from mindformers_qwenvl.training.monitor import steps_resumed
from mindformers_qwenvl.weights.names import to_original

__all__ = ["QwenVLAdapterMonitor", "save_adapter"]


class QwenVLAdapterMonitor(Callback):
    """Loads the adapter to begin with, and writes OUTPUT_DIR/adapter/step_N in peft's format whenever a checkpoint is
    saved, and at the end.

    The trainer adds it to any training with a `pet_config`. In data parallel the first process writes. If weights are
    split over the cards (model_parallel, optimizer parallel), no card has the whole adapter: then nothing is written,
    and `convert-weight --adapter_only` makes the adapter from a checkpoint.

    Args:
        adapter: directory to begin with; None: A is drawn, B is zero. A resumed training ignores it.
        base: `base_model_name_or_path` of adapter_config.json.
        directory: where to write instead of `output_dir`.
        resumed: whether this training is resumed.
    """

    def __init__(
        self,
        adapter: str | None = None,
        base: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        resumed: bool = False,
    ):
        super().__init__()
        self.adapter = adapter
        self.base = base
        self.directory = directory
        self.resumed = resumed
        self.written: int | None = None
        self.steps_before = 0

    def on_train_begin(self, run_context: Any) -> None:
        params = run_context.original_args()
        self.steps_before = steps_resumed(params)
        if self.adapter and not self.resumed:
            network = _network(params.train_network)
            network.load_adapter(self.adapter, training=True)
            logger.info("adapter: training begins with %s", self.adapter)

    def on_train_step_end(self, run_context: Any) -> None:
        params = run_context.original_args()
        if saved_checkpoint(params):
            self._write(params)

    def on_train_end(self, run_context: Any) -> None:
        self._write(run_context.original_args())

    def _write(self, params: Any) -> None:
        step = self.steps_before + params.cur_step_num
        if step == self.written:
            return
        self.written = step
        network = _network(params.train_network)
        if _is_cut(params.train_network):
            logger.warning(
                "adapter: not written, because it is split over the cards and none has all of it. Make it from the "
                "checkpoint: mindformers-qwenvl convert-weight --adapter_only --input_path %s --config YAML "
                "--output_path ADAPTER",
                Path(self.directory or get_output_root_path()) / "checkpoint",
            )
        elif get_real_rank() == 0:
            folder = Path(self.directory or get_output_root_path()) / "adapter" / f"step_{step}"
            logger.info("adapter: written to %s", save_adapter(network, folder, self.base))


def _network(train_network: nn.Cell) -> Any:
    return next(cell for _, cell in train_network.cells_and_names() if isinstance(cell, AdapterSwitch))


def _is_cut(train_network: nn.Cell) -> bool:
    """Whether a card holds only a part of some trained weight."""
    if not is_sharded():
        return False
    layouts = train_network.parameter_layout_dict or {}
    trained = [parameter.name for parameter in train_network.trainable_params() if parameter.name in layouts]
    return any(any(axis != -1 for axis in layouts[name][1]) or layouts[name][5] for name in trained) or (
        pipeline_stages() > 1
    )


def save_adapter(network: Any, folder: str | os.PathLike[str], base: str | None = None) -> Path:
    """Write the network's adapter, and the modules that are trained whole beside it, to `folder` in peft's format."""
    settings = from_pet_config(network.config.pet_config)
    tensors = {}
    parts: dict[tuple[str, str], dict[int, Any]] = {}
    for factor, parameter in low_rank_parameters(network).items():
        parts.setdefault((factor.module, factor.kind), {})[factor.index] = parameter
    for (module, kind), found in parts.items():
        arrays = [_numbers(found[index]) for index in sorted(found)]
        tensors[peft_name(module, kind)] = np.concatenate(arrays), _code(found[0])
    saved: dict[str, dict[int, Any]] = {}
    for parameter in network.trainable_params():
        if factor_of(parameter.name) is None:
            part = to_original(parameter.name)
            saved.setdefault(part.name, {})[part.index] = parameter
    for tensor, found in saved.items():
        arrays = [_numbers(found[index]) for index in sorted(found)]
        tensors[peft_name(tensor, SAVED)] = np.concatenate(arrays), _code(found[0])
    return write_adapter(folder, AdapterSettings(**{**vars(settings), "base": base}), tensors)


def _numbers(parameter: Any) -> np.ndarray:
    return parameter.astype(ms.float32).asnumpy()


def _code(parameter: Any) -> str:
    return {ms.float16: "F16", ms.bfloat16: "BF16"}.get(parameter.dtype, "F32")
