"""The loss over held-out samples: while a training runs (`do_eval: True`), and on its own (`run_mode: eval`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindformers.tools.utils import get_output_root_path, get_real_group_size, get_real_rank
from mindformers.utils.tensorboard import get_tensorboard_writer
from mindspore import ops
from mindspore.train import Metric
from mindspore.train.callback import Callback

from mindformers_qwenvl.files import replacing
from mindformers_qwenvl.host.callbacks import steps_before
from mindformers_qwenvl.host.context import is_data_parallel, is_sharded
from mindformers_qwenvl.text.rows import IGNORE

__all__ = ["BEST", "HeldOutLoss", "Validation", "full_batches"]

BEST = "best"  # the folder in output_dir, and the file in it that names the step
LABELS = 3  # column of the labels, in the order of `net_input_columns`


def full_batches(dataset: Any, rows: int) -> Any:
    """The batches of a dataset. The last one is filled up to `rows` with samples that have no labels: all batches have
    one shape, for which one graph is enough, and no sample is left out."""

    def fill(*columns: np.ndarray) -> tuple[np.ndarray, ...]:
        missing = rows - len(columns[0])
        if not missing:
            return columns
        filled = [np.concatenate([column, np.repeat(column[-1:], missing, 0)]) for column in columns]
        filled[LABELS][-missing:] = IGNORE
        return tuple(filled)

    names = dataset.get_col_names()
    return dataset.map(fill, input_columns=names, output_columns=names)


class HeldOutLoss(Metric, Callback):
    """The mean loss over the label tokens of all batches; in data parallel, of all processes.

    It is also a callback, as MindSpore's `Model.eval` shows the batch only to callbacks and the loss only to metrics.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Start again."""
        self.total, self.tokens, self.count = 0.0, 0, 0

    def see(self, labels: np.ndarray) -> None:
        """Take the labels [B, S + 1] of the batch whose loss comes next."""
        self.count = int((labels[:, 1:] != IGNORE).sum())

    def on_eval_step_begin(self, run_context: Any) -> None:
        """MindSpore shows the next batch."""
        self.see(run_context.original_args().eval_dataset_element[LABELS].asnumpy())

    def update(self, *outputs: Any) -> None:
        """Add the loss of the batch, the mean over its label tokens."""
        self.total += float(outputs[0].asnumpy()) * self.count
        self.tokens += self.count

    def eval(self) -> float:
        """The loss.

        Raises:
            ValueError: no sample has a label token.
        """
        sums = np.array([self.total, self.tokens], np.float32)
        if is_data_parallel() and get_real_group_size() > 1:
            sums = ops.AllReduce()(ms.Tensor(sums)).asnumpy()  # every process has its own part of the samples
        if not sums[1]:
            raise ValueError("eval_dataset: no sample has an answer with label tokens, so there is no loss")
        return float(sums[0]) / float(sums[1])


class Validation(Callback):
    """Computes the loss over held-out samples at intervals, and saves the network of the best step.

    The loss goes to the log, to TensorBoard (`validation-loss`), and through `QwenVLMonitor` into the CSV file of the
    steps (`val_loss`), from which `mindformers-qwenvl plot` draws it. The best network so far is saved as
    OUTPUT_DIR/best/rank_N.safetensors, and OUTPUT_DIR/best/best.json names its step and loss; a resumed run continues
    from them.

    Args:
        dataset: makes the dataset of held-out samples; called once, before the first step.
        network: returns the network that is trained, without the cells around it.
        step_interval: steps between two evaluations; there is one at the end, too.
        directory: where to write instead of `output_dir`.
    """

    def __init__(
        self,
        dataset: Callable[[], Any],
        network: Callable[[], Any],
        step_interval: int,
        directory: str | os.PathLike[str] | None = None,
    ):
        super().__init__()
        self.make_dataset, self.find_network = dataset, network
        self.step_interval = step_interval
        self.directory = directory
        self.loss = HeldOutLoss()
        self.dataset: Any = None
        self.before = self.last = 0
        self.evaluated: int | None = None
        self.best: dict[str, float] = {}

    def on_train_begin(self, run_context: Any) -> None:
        self.dataset = self.make_dataset()
        self.folder = Path(self.directory or get_output_root_path()) / BEST

    def on_train_step_begin(self, run_context: Any) -> None:
        if self.evaluated is None:
            params = run_context.original_args()
            self.before = steps_before(params) or 0
            self.last = params.cur_step_num - 1
            self.evaluated = -1
            self.best = self._best_before(self.before + self.last)

    def on_train_step_end(self, run_context: Any) -> None:
        params = run_context.original_args()
        step = params.cur_step_num
        last = step == params.batch_num * params.epoch_num
        if last or step // self.step_interval > self.last // self.step_interval:  # sink_mode may skip the very step
            self._evaluate(params)
        self.last = step

    def on_train_end(self, run_context: Any) -> None:
        params = run_context.original_args()
        if self.evaluated not in (None, self.before + params.cur_step_num):
            self._evaluate(params)

    def _evaluate(self, params: Any) -> None:
        began = time.perf_counter()
        step = self.evaluated = self.before + params.cur_step_num
        loss = self._loss()
        better = loss < self.best.get("loss", float("inf"))
        if better:
            self._keep(step, loss)
        seconds = time.perf_counter() - began
        params.validation_loss, params.validation_seconds = loss, seconds  # for QwenVLMonitor, which is called later
        named = "the best so far" if better else f"the best is {self.best['loss']:.5f}, of step {self.best['step']:.0f}"
        logger.info("validation after step %d: loss %.5f over %d label tokens, %s (%.1f s)",
                    step, loss, self.loss.tokens, named, seconds)  # fmt: skip
        if (writer := get_tensorboard_writer()) is not None:
            writer.add_scalar("validation-loss", loss, global_step=step)

    def _loss(self) -> float:
        network = self.find_network()
        network.set_train(False)
        self.loss.clear()
        try:
            for batch in self.dataset.create_tuple_iterator(num_epochs=1):
                self.loss.see(batch[LABELS].asnumpy())
                self.loss.update(network(*batch))
        finally:
            network.set_train(True)
        return self.loss.eval()

    def _keep(self, step: int, loss: float) -> None:
        """Save the network, then name the step: if killed in between, best.json still names the previous best step."""
        self.best = {"step": step, "loss": loss}
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = get_real_rank()
        split = is_sharded()
        if rank and not split:  # in data parallel all processes have the same weights
            return
        path = self.folder / f"rank_{rank}.safetensors"
        unfinished = path.with_name(f".unfinished-{path.name}")
        try:
            ms.save_checkpoint(self.find_network(), str(unfinished), integrated_save=not split, format="safetensors")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        if not rank:
            with replacing(self.folder / f"{BEST}.json", "w") as file:
                file.write(json.dumps({**self.best, "file": path.name}, indent=2) + "\n")

    def _best_before(self, steps: int) -> dict[str, float]:
        """The best step of the run that this one resumes; {} for a new run."""
        try:
            best = json.loads((self.folder / f"{BEST}.json").read_text(encoding="utf-8"))
            return {"step": best["step"], "loss": best["loss"]} if best["step"] <= steps else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
