"""`callbacks: - type: QwenVLMonitor`: every step in the log, as a row of a CSV file, and in TensorBoard."""

from __future__ import annotations

import os
import time
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindformers.tools.utils import get_output_root_path, get_real_group_size, get_real_rank
from mindformers.utils.tensorboard import get_tensorboard_writer
from mindspore.train.callback import Callback

from mindformers_qwenvl.checks import number, switch, whole
from mindformers_qwenvl.host.callbacks import loss_parts, steps_before
from mindformers_qwenvl.host.context import is_data_parallel, parallel_mode, pipeline_stages, whole_batches
from mindformers_qwenvl.model.qwenvl import QwenVL
from mindformers_qwenvl.training.flops import gradients_of, step_flops
from mindformers_qwenvl.training.steps_file import StepsFile, rewind_other_ranks, steps_file_name

__all__ = ["QwenVLMonitor", "steps_resumed"]

INPUT_IDS, IMAGES, POSITIONS = 0, 1, 2  # columns of the dataset, as `net_input_columns` orders them


class QwenVLMonitor(Callback):
    """Loss, learning rate, gradient norm, tokens/s, images/s and MFU of every step.

    They go to the log; to OUTPUT_DIR/steps/rank_N.csv (see steps_file.py; `mindformers-qwenvl plot OUTPUT_DIR` draws
    it), which a resumed run continues; and, if the YAML has a section `tensorboard`, to TensorBoard: tokens/s, images/s
    and MFU from here, the rest from the host's MFLossMonitor.

    Tokens are positions of the network's input, padding included. Images are those that belong to a sample or, with
    `sink_mode`, where the batch cannot be seen, the places for them. Both rates are of all cards together, over the
    time since the previous step. The loss is that of the whole batch or, with `runner_wrapper.weigh_cards: False`, that
    of this process's part. The gradient norm, before clipping, is only known with `use_clip_grad: True`.

    Args:
        per_print_times: steps from one line in the log to the next. 0: no lines.
        csv: write the CSV file; with pipeline stages, only the last stage writes it, which has the loss.
        directory: where to write it instead of `output_dir`.
        peak_tflops: peak of a card at the `compute_dtype`, in 10^12 operations a second (see its data sheet), for the
            MFU. None: no MFU.

    Raises:
        ValueError: an argument is out of its range; the message names it, the range and the value.
    """

    def __init__(
        self,
        per_print_times: int = 1,
        csv: bool = True,
        directory: str | os.PathLike[str] | None = None,
        peak_tflops: float | None = None,
    ):
        super().__init__()
        whole("QwenVLMonitor: per_print_times", per_print_times, 0, note="0: no lines")
        switch("QwenVLMonitor: csv", csv)
        if directory is not None and not isinstance(directory, str | os.PathLike):
            raise ValueError(f"QwenVLMonitor: directory must be the path of a folder or left out, got {directory!r}")
        number("QwenVLMonitor: peak_tflops", peak_tflops, above=0, optional=True)
        self.per_print_times = per_print_times
        self.csv = csv
        self.directory = directory
        self.peak = None if peak_tflops is None else float(peak_tflops) * 1e12
        self.cards = get_real_group_size()
        self.writer = get_tensorboard_writer()
        self.steps_before: int | None = None  # of the run that this one resumes
        self.file: StepsFile | None = None
        self.last_step = 0
        self.ended = self.began = 0.0

    def on_train_step_begin(self, run_context: Any) -> None:
        self.began = time.perf_counter()
        if self.steps_before is None:
            self._start(run_context.original_args())

    def _start(self, params: Any) -> None:
        self.steps_before = steps_resumed(params)
        network = params.train_network
        self.loss_parts = loss_parts(network)
        self.config = next((cell.config for _, cell in network.cells_and_names() if isinstance(cell, QwenVL)), None)
        self.copies = _copies(self.config)
        self.gradients = None if self.peak is None or self.config is None else gradients_of(self.config)
        self.ended = self.began
        # This step has been counted already; with sink_mode it counts as several.
        self.last_step = params.cur_step_num - (params.sink_size if params.dataset_sink_mode else 1)
        if self.csv and get_real_rank() in _ranks_with_loss():
            self._open(self.steps_before + self.last_step + 1)

    def _open(self, first_step: int) -> None:
        folder, rank, ranks = self.directory or get_output_root_path(), get_real_rank(), _ranks_with_loss()
        if rank == ranks[0]:  # only one process, so that no two write the same file
            rewind_other_ranks(folder, ranks, first_step)
        self.file = StepsFile(steps_file_name(folder, rank), first_step)

    def on_train_step_end(self, run_context: Any) -> None:
        params = run_context.original_args()
        row = self._outputs(params.net_outputs)  # waits for them
        now = time.perf_counter()
        steps = max(1, params.cur_step_num - self.last_step)
        validated = params.pop("validation_seconds", 0.0)  # set by `Validation`, which is called before
        seconds, waited = (now - self.ended - validated) / steps, (self.began - self.ended) / steps
        self.ended, self.last_step = now, params.cur_step_num
        row |= {"step": self.steps_before + params.cur_step_num, "epoch": params.cur_epoch_num}
        row["val_loss"] = params.pop("validation_loss", None)
        row |= {"seconds": seconds, "waited": waited, **self._rates(params, seconds)}
        self._show(row, params)

    def reports(self) -> bool:
        """Whether this process is the first of those that have the loss."""
        return get_real_rank() == _ranks_with_loss()[0]

    def _show(self, row: dict[str, Any], params: Any) -> None:
        """Write the measurements of a step to file, log and TensorBoard. `run` shows a bar instead."""
        if self.file is not None:
            self.file.append(row)
        if self.per_print_times and params.cur_step_num % self.per_print_times == 0:
            logger.info(_sentence(row))
        if self.writer is not None:
            for name, tag in (("tokens_per_s", "tokens-per-second"), ("images_per_s", "images-per-second")):
                if row.get(name) is not None:
                    self.writer.add_scalar(tag, row[name], global_step=row["step"])
            if row.get("mfu") is not None:
                self.writer.add_scalar("mfu", row["mfu"], global_step=row["step"])

    def on_train_end(self, run_context: Any) -> None:
        if self.file is not None:
            self.file.close()

    def _outputs(self, outputs: Any) -> dict[str, float | None]:
        """What the train step returns: (loss, overflow, loss scale, learning rate, gradient norm, ...), or the loss."""
        names = ("loss", "overflow", "loss_scale", "learning_rate", "grad_norm")
        values = outputs if isinstance(outputs, tuple | list) else (outputs,)
        row = dict(zip(names, map(_number, values), strict=False))
        if row["loss"] is not None:
            row["loss"] /= self.loss_parts
        return row

    def _rates(self, params: Any, seconds: float) -> dict[str, float | None]:
        rows, length, slots, images = _sizes(params)
        rates = {
            "tokens_per_s": self.copies * rows * length / seconds,
            "images_per_s": self.copies * images / seconds,
        }
        if self.gradients is not None:
            flops = self.copies * step_flops(self.config, self.gradients, rows, length, slots)
            rates["mfu"] = flops / (seconds * self.cards * self.peak)
        return rates


def steps_resumed(params: Any) -> int:
    """The number of steps of the run that this one resumes; 0 for a new run."""
    told = steps_before(params)
    if told is not None:
        return told
    # Without MFLossMonitor and CheckpointMonitor only the optimizer's count is left, which omits overflowed steps.
    counted = getattr(getattr(params.train_network, "optimizer", None), "global_step", None)
    return 0 if counted is None else int(_number(counted))


def _number(value: Any) -> float | None:
    """The mean of a tensor. None, such as a gradient norm without `use_clip_grad`, stays None."""
    if isinstance(value, ms.Tensor):
        value = value.asnumpy()
    return None if value is None else float(np.mean(value))


def _sizes(params: Any) -> tuple[int, int, int, int]:
    """Sizes of this process's batch: rows, positions that the network sees, places for images, images."""
    batch = params.get("train_dataset_element")
    # With sink_mode the batch is in a queue on the device.
    shapes = [column.shape for column in batch] if batch else params.train_dataset.output_shapes()
    rows, length = shapes[INPUT_IDS]
    slots = rows * shapes[IMAGES][1] if len(shapes) > POSITIONS else 0
    if not batch or not slots:
        return rows, length - 1, slots, slots
    used = batch[POSITIONS].asnumpy()[:, :, 0, 1] >= 0
    return rows, length - 1, slots, int(used.sum())


def _copies(config: Any) -> int:
    """How many batches of this size are computed at once: in data parallel one on each card, see `dataset_strategy`."""
    if is_data_parallel():
        return get_real_group_size()
    if parallel_mode() == "stand_alone" or whole_batches() or config is None:
        return 1
    return int(config.parallel_config.data_parallel)


def _ranks_with_loss() -> range:
    """The processes of the last pipeline stage, the only ones that have a loss."""
    stages = pipeline_stages()
    a_stage = max(1, get_real_group_size() // stages)
    return range(a_stage * (stages - 1), a_stage * stages)


def _sentence(row: dict[str, float | None]) -> str:
    known = {name: value for name, value in row.items() if value is not None}
    parts = [f"step {known['step']}", f"epoch {known['epoch']}", f"loss {known['loss']:.6f}"]
    formats = {
        "learning_rate": "learning rate {:.3e}",
        "grad_norm": "gradient norm {:.4f}",
        "seconds": "{:.3f} s",
        "waited": "{:.3f} s of it waiting",
        "tokens_per_s": "{:.1f} tokens/s",
        "images_per_s": "{:.2f} images/s",
        "mfu": "MFU {:.1%}",
    }
    parts += [text.format(known[name]) for name, text in formats.items() if name in known]
    if known.get("overflow"):
        parts.append(f"overflow at loss scale {known.get('loss_scale', 1):g}, weights not updated")
    return ", ".join(parts)
