"""QwenVLMonitor where a CPU cannot go: a data queue on the device, wrappers that cut the batch. More in tests/stock."""

from __future__ import annotations

import math
import re
import time
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.dataset import GeneratorDataset
from mindspore.train.callback import RunContext
from mindspore.train.callback._callback import InternalCallbackParam

from mindformers_qwenvl.training.monitor import QwenVLMonitor
from mindformers_qwenvl.training.steps_file import find_steps_files, read_steps

IMAGES = np.zeros((2, 3, 3, 4, 4), np.float32)
POSITIONS = np.full((2, 3, 4, 2), -1, np.int32)
POSITIONS[0, :2, :, 1] = np.arange(4)  # two pictures in the first row, none in the second
BATCH = (np.zeros((2, 9), np.int32), IMAGES, POSITIONS, np.zeros((2, 9), np.int32))


class Cut(nn.Cell):
    def __init__(self, network, **names):
        super().__init__()
        self.network = network
        for name, value in names.items():
            setattr(self, name, value)


def params(**more) -> RunContext:
    """What `Model.train` keeps for callbacks, before the first step."""
    given = InternalCallbackParam()
    given |= {"cur_step_num": 0, "cur_epoch_num": 1, "dataset_sink_mode": False, "list_callback": []}
    given |= {"train_network": Cut(nn.Dense(2, 2)), "train_dataset_element": tuple(map(Tensor, BATCH)), **more}
    return RunContext(given)


def steps(monitor: QwenVLMonitor, context: RunContext, outputs, calls: int = 1, by: int = 1) -> None:
    for _ in range(calls):
        context.original_args()["cur_step_num"] += by
        monitor.on_train_step_begin(context)
        time.sleep(0.02)
        context.original_args()["net_outputs"] = outputs
        monitor.on_train_step_end(context)
    monitor.on_train_end(context)


def test_data_queue_on_the_device(tmp_path):
    """`sink_mode: True` with sink_size 2: a call stands for two steps, and sizes are those of the data set."""
    dataset = GeneratorDataset([BATCH], ["input_ids", "images", "image_context_pos", "labels"])
    context = params(dataset_sink_mode=True, sink_size=2, train_dataset=dataset, train_dataset_element=())
    outputs = (Tensor(3.5), Tensor(False), Tensor(1024.0), Tensor(1e-5), Tensor([0.5]))
    began = time.perf_counter()
    steps(QwenVLMonitor(directory=str(tmp_path)), context, outputs, calls=3, by=2)
    took = time.perf_counter() - began
    rows = read_steps(tmp_path / "steps/rank_0.csv")
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        assert (row["loss"], row["loss_scale"], row["grad_norm"], row["overflow"]) == (3.5, 1024, 0.5, 0)
        assert row["learning_rate"] == pytest.approx(1e-5)
        assert 0.01 <= row["seconds"] <= took / 2  # of one of the two
        assert row["tokens_per_s"] == pytest.approx(2 * 8 / row["seconds"], rel=1e-6)
        assert row["images_per_s"] == pytest.approx(6 / row["seconds"], rel=1e-6)  # places for pictures


def test_pictures_that_are_there_count(tmp_path):
    steps(QwenVLMonitor(directory=str(tmp_path)), params(), Tensor(2.0))
    (row,) = read_steps(tmp_path / "steps/rank_0.csv")
    assert row["images_per_s"] == pytest.approx(2 / row["seconds"], rel=1e-6)
    assert (row["loss"], row["grad_norm"], row["learning_rate"], row["mfu"]) == (2.0, None, None, None)


def test_losses_of_parts_that_the_host_adds_up(tmp_path):
    """Four micro batches of a pipeline, each interleaved in two; the train step has the number of parts as well."""
    network = Cut(Cut(Cut(nn.Dense(2, 2), interleave_num=2), micro_size=4), micro_size=4)
    steps(QwenVLMonitor(directory=str(tmp_path)), params(train_network=network), Tensor(16.0))
    assert read_steps(tmp_path / "steps/rank_0.csv")[0]["loss"] == 2.0


def test_overflow_and_nan_are_written(tmp_path):
    outputs = (Tensor(float("nan")), Tensor(True), Tensor(65536.0), Tensor(1e-5), Tensor(float("inf")))
    steps(QwenVLMonitor(directory=str(tmp_path)), params(), outputs)
    (row,) = read_steps(tmp_path / "steps/rank_0.csv")
    assert math.isnan(row["loss"])
    assert (row["grad_norm"], row["overflow"], row["loss_scale"]) == (math.inf, 1, 65536)


def test_no_file_if_none_is_wanted(tmp_path):
    steps(QwenVLMonitor(per_print_times=0, csv=False, directory=str(tmp_path)), params(), Tensor(2.0))
    assert not list(tmp_path.glob("steps/*"))


@pytest.mark.parametrize(("callbacks", "first"), [([], 7), ([SimpleNamespace(initial_step=9)], 10)])
def test_a_resumed_run_without_the_hosts_monitors_begins_at_the_optimizers_step(tmp_path, callbacks, first):
    network = Cut(nn.Dense(2, 2))
    network.optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    network.optimizer.global_step.set_data(Tensor([6], ms.int32))
    context = params(train_network=network, list_callback=callbacks)
    steps(QwenVLMonitor(directory=str(tmp_path)), context, Tensor(2.0), calls=2)
    assert [row["step"] for row in read_steps(tmp_path / "steps/rank_0.csv")] == [first, first + 1]


def monitor_of(monkeypatch, rank: int, ranks: int, folder) -> QwenVLMonitor:
    monkeypatch.setattr("mindformers_qwenvl.training.monitor.get_real_rank", lambda: rank)
    monkeypatch.setattr("mindformers_qwenvl.training.monitor.get_real_group_size", lambda: ranks)
    return QwenVLMonitor(directory=str(folder))


@pytest.mark.parametrize(("steps_before", "left"), [(0, [0, 1]), (1, [0, 1, 2])])
def test_a_new_run_of_fewer_processes(tmp_path, monkeypatch, steps_before, left):
    """Its first process sets aside the files of those that are no more; a resumed run's leaves them."""
    for rank in range(3):
        steps(monitor_of(monkeypatch, rank, 3, tmp_path), params(), Tensor(2.0))
    for rank in range(2):
        steps(monitor_of(monkeypatch, rank, 2, tmp_path), params(initial_step=steps_before), Tensor(3.0))
    assert [path.name for path in find_steps_files(tmp_path)] == [f"rank_{rank}.csv" for rank in left]
    assert len(read_steps(tmp_path / "steps/rank_1.csv")) == steps_before + 1


def test_pipeline_stages_keep_the_steps_of_the_last_one(tmp_path, monkeypatch):
    for rank in range(2):
        steps(monitor_of(monkeypatch, rank, 2, tmp_path), params(), Tensor(2.0))
    monkeypatch.setattr("mindspore.get_auto_parallel_context", {"pipeline_stages": 2}.get)
    monkeypatch.setattr("mindformers_qwenvl.training.monitor._copies", lambda config: 1)
    for rank in range(4):
        steps(monitor_of(monkeypatch, rank, 4, tmp_path), params(), Tensor(3.0))
    assert [path.name for path in find_steps_files(tmp_path)] == ["rank_2.csv", "rank_3.csv"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"per_print_times": value} for value in (-1, 1.5, True)),
        *({"peak_tflops": value} for value in (0, -3.0, float("inf"), float("nan"), True, "abc", "312", [1])),
        *({"csv": value} for value in ("no", 1, None)),
        *({"directory": value} for value in (5, True, ["a"])),
    ],
)
def test_what_makes_no_sense(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"QwenVLMonitor: {name} must be .*, got {re.escape(repr(value))}$"):
        QwenVLMonitor(**wrong)
