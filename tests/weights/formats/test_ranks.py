"""Checkpoints of distributed trainings. MindSpore itself cuts the weights; joined here, they are what they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.formats.strategy import Cut, read_strategies
from tests.support.checkpoints import original_bytes

# Devices, and the axes (from the right) that cut each dimension of what is cut by rows, and of what is cut by columns.
PLAIN = {"devices": [2, 2], "rows": [0, -1], "columns": [-1, 0]}
STRATEGIES = {
    "tensors": PLAIN,
    "data": {"devices": [4], "rows": [-1, -1], "columns": [-1, -1]},
    "both dimensions": {"devices": [2, 4], "rows": [1, 0], "columns": [0, 1]},
    "optimizer": {**PLAIN, "step": 2, "size": 2},
    "optimizer, all": {**PLAIN, "step": 2, "size": -1},
    "optimizer, data only": {"devices": [4], "rows": [-1, -1], "columns": [-1, -1], "step": 1, "size": 4},
    "optimizer, a part": {"devices": [4, 2], "rows": [0, -1], "columns": [-1, 0], "step": 2, "size": 2},
    "optimizer, two axes": {"devices": [2, 2, 2], "rows": [1, -1], "columns": [-1, 0], "step": 1, "size": 4},
    "two axes": {"devices": [2, 2, 2], "rows": [[2, 0], [-1]], "columns": [[-1], [1, 0]]},
}


def write_strategy(path: Path, shapes: dict, devices: list, rows: list, columns: list, step: int = 0, size: int = 0):
    """A strategy file made with MindSpore's protobuf classes; what 8 divides is cut, by rows and by columns in turn."""
    from mindspore.train.node_strategy_pb2 import ParallelStrategyMap

    whole = ParallelStrategyMap()
    whole.current_stage = 1
    item = whole.parallel_strategy_item.add()
    item.node_name = "MatMul"
    item.parallel_strategys.stage = 0
    for number, (name, shape) in enumerate(shapes.items()):
        layout = whole.parallel_layout_item.add()
        layout.param_name = name
        layouts = layout.parallel_layouts
        layouts.dev_matrix.add().dim.extend(devices)
        divisible = len(shape) > 1 and not any(side % 8 for side in shape[:2])
        cut = ((rows, columns)[number % 2] if divisible else []) + [-1] * len(shape)
        if any(isinstance(axes, list) for axes in rows):
            for axes in cut[: len(shape)]:
                layouts.tensor_map.add().dim.extend(axes if isinstance(axes, list) else [axes])
        else:
            layouts.tensor_map.add().dim.extend(cut[: len(shape)])
        layouts.param_split_shape.add()
        layouts.field = 0
        layouts.opt_weight_shard_step = step if divisible else 0
        layouts.opt_weight_shard_size = size if divisible else 0
    path.write_bytes(whole.SerializeToString())


def cut_by_mindspore(source: Path, strategy: dict) -> None:
    """`source` in our layout -> run/checkpoint/rank_*/x_rank_*-1_7 and the strategy file beside it.

    (As .ckpt: MindSpore 2.9 writes columns of a matrix, which do not lie together, to safetensors in a wrong order.)
    """
    ms = pytest.importorskip("mindspore")
    convert(source, "one/rank_0/one.ckpt")
    with Checkpoint("one/rank_0/one.ckpt") as checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    Path("run/strategy").mkdir(parents=True)
    strategy_file = Path("run/strategy/ckpt_strategy_rank_0.ckpt")
    write_strategy(strategy_file, shapes, **strategy)
    ms.transform_checkpoints("one", "cut", "x", None, str(strategy_file), output_format="ckpt")
    shutil.rmtree("one")
    for folder in Path("cut").glob("rank_*"):
        (file,) = folder.glob("*.ckpt")
        target = Path("run/checkpoint") / folder.name
        target.mkdir(parents=True)
        file.replace(target / f"x_{folder.name}-1_7.ckpt")


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_what_mindspore_cut_is_joined(strategy, checkpoint_dir, monkeypatch):
    monkeypatch.setattr(transfer, "BLOCK", 1000)  # blocks begin and end inside of rows
    source = checkpoint_dir("a56")
    cut_by_mindspore(source, strategy)
    ranks = len(list(Path("run/checkpoint").iterdir()))
    assert ranks == np.prod(strategy["devices"])
    report = convert("run/checkpoint", "back", reverse=True, config=source, verify=True)
    assert original_bytes(Path("back")) == original_bytes(source)
    assert report.files_read == ranks + 1
    convert("run/checkpoint", "one.safetensors", config=source)
    convert(source, "ours.safetensors")
    joined, direct = load_file("one.safetensors"), load_file("ours.safetensors")
    assert joined.keys() == direct.keys()
    assert all(np.array_equal(joined[name], direct[name]) for name in direct)


def test_a_merged_strategy_and_one_given_elsewhere(checkpoint_dir):
    ms = pytest.importorskip("mindspore")
    source = checkpoint_dir("a56")
    cut_by_mindspore(source, PLAIN)
    Path("elsewhere").mkdir()
    ms.merge_pipeline_strategys("run/strategy", "elsewhere/merged.ckpt")
    shutil.rmtree("run/strategy")
    with pytest.raises(ValueError, match=r"config\.json asks for"):
        convert("run/checkpoint", "back", reverse=True, config=source)
    convert("run/checkpoint", "back", reverse=True, config=source, strategy="elsewhere/merged.ckpt")
    assert original_bytes(Path("back")) == original_bytes(source)


def test_a_missing_rank_is_named(checkpoint_dir):
    source = checkpoint_dir("a56")
    cut_by_mindspore(source, PLAIN)
    shutil.rmtree("run/checkpoint/rank_3")  # rank 1 holds the same
    convert("run/checkpoint", "back", reverse=True, config=source, verify=True)
    shutil.rmtree("run/checkpoint/rank_1")
    with pytest.raises(ValueError, match=r"cut into \[.*\], the parts .* are in none of the ranks 0, 2"):
        convert("run/checkpoint", "other", reverse=True, config=source)


def test_mindspore_deals_out_a_converted_folder(checkpoint_dir):
    """What loading on many cards does with `load_checkpoint: FOLDER`: each card gets its part of every weight."""
    ms = pytest.importorskip("mindspore")
    convert(checkpoint_dir("a56"), "ours", max_shard_size=2_000_000, dtype="fp16")
    with Checkpoint("ours") as ours:
        write_strategy(Path("s.ckpt"), {name: info.shape for name, info in ours.tensors.items()}, **PLAIN)
        cuts = read_strategies([Path("s.ckpt")])
        ms.load_distributed_checkpoint(
            None,
            predict_strategy="s.ckpt",
            unified_safetensors_dir="ours",
            dst_safetensors_dir="dealt",
            format="safetensors",
            max_process_num=2,  # else it forks the process of all tests 64 times
        )
        for rank in range(4):
            (file,) = Path(f"dealt/rank_{rank}").glob("*.safetensors")
            held = load_file(file)
            for name, info in ours.tensors.items():
                parts = zip(cuts[name].part(rank), cuts[name].parts, info.shape, strict=True)
                part = tuple(slice(index * side // count, (index + 1) * side // count) for index, count, side in parts)
                assert np.array_equal(held[name], ours.read(name).reshape(info.shape)[part])


# ---- without MindSpore


def save_rank(rank: int, step: str, tensors: dict, form: str = "safetensors") -> None:
    folder = Path(f"run/checkpoint/rank_{rank}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"qwenvl_rank_{rank}-{step}.{form}")


@pytest.fixture
def weights(checkpoint_dir) -> dict[str, np.ndarray]:
    convert(checkpoint_dir("a56"), "ours.safetensors")
    return load_file("ours.safetensors")


def test_data_parallel_needs_no_strategy_and_the_last_common_step_counts(weights, checkpoint_dir):
    source = checkpoint_dir("a56")
    old = {name: np.zeros_like(value) for name, value in weights.items()}
    state = {f"adam_m.{name}": value for name, value in old.items()} | {"global_step": np.int32([7])}
    for rank in (0, 1):
        save_rank(rank, "1_9", old)
        save_rank(rank, "2_3", weights | state)
    save_rank(0, "2_4", old)  # rank 1 was stopped before it saved that
    report = convert("run/checkpoint", "back", reverse=True, config=source)
    assert original_bytes(Path("back")) == original_bytes(source)
    assert sorted(report.dropped) == sorted(state)
    assert "dropped  74 tensors: adam_m." in str(report)
    convert("run/checkpoint/rank_1", "one.ckpt", config=source, dtype="fp16", verify=True)


def test_a_later_run_in_the_same_folder_counts(weights, checkpoint_dir):
    """MindSpore numbers its files, whatever their steps."""
    old = {name: np.zeros_like(value) for name, value in weights.items()}
    for rank in (0, 1):
        save_rank(rank, "2_3", old)
        for run in (1, 2, 10):
            save_file(weights if run == 10 else old, f"run/checkpoint/rank_{rank}/x_rank_{rank}_{run}-1_3.safetensors")
    save_file(old, "run/checkpoint/rank_0/x_rank_0_11-1_1.safetensors")  # rank 1 did not save that
    report = convert("run/checkpoint", "back", reverse=True, config=checkpoint_dir("a56"))
    assert original_bytes(Path("back")) == original_bytes(checkpoint_dir("a56"))
    assert "of the last step that all ranks have saved: x_rank_0_10-1_3.safetensors\n" in str(report)
    assert "WARNING  rank_0/x_rank_0_11-1_1.safetensors: later, but not read because not every" in str(report)


def test_no_common_step(weights, checkpoint_dir):
    save_rank(0, "1_1", weights)
    save_rank(1, "1_2", weights)
    with pytest.raises(ValueError, match=r"2 ranks have no saved step .* found rank_0: 1_1, rank_1: 1_2"):
        convert("run/checkpoint", "back", reverse=True, config=checkpoint_dir("a56"))


def test_two_files_without_a_step(weights, checkpoint_dir):
    save_rank(0, "last", weights)
    save_rank(0, "best", weights)
    with pytest.raises(ValueError, match=r"best\.safetensors and .*last\.safetensors.* move away the one"):
        convert("run/checkpoint", "back", reverse=True, config=checkpoint_dir("a56"))


def test_ranks_that_do_not_agree(weights, checkpoint_dir):
    save_rank(0, "1_1", weights)
    save_rank(1, "1_1", weights | {"llm_model.transformer.ln_f.weight": np.zeros(7, np.float32)})
    with pytest.raises(ValueError, match=r"ln_f\.weight is F32 \[256\] in rank 0 and F32 \[7\] in rank 1"):
        convert("run/checkpoint", "back", reverse=True, config=checkpoint_dir("a56"))


def test_a_strategy_for_what_is_no_ranks(checkpoint_dir, weights):
    Path("s.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="a strategy applies to these only"):
        convert("ours.safetensors", "back", reverse=True, config=checkpoint_dir("a56"), strategy="s.ckpt")


@pytest.mark.parametrize("content", [b"", b"no strategy", b"\x08\x01", b"\x1a\x03\x0a\x01a"])
def test_no_strategy_file(content):
    Path("s.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.ckpt is not a strategy file of MindSpore"):
        read_strategies([Path("s.ckpt")])


def test_no_strategy_there(weights, checkpoint_dir):
    save_rank(0, "1_1", weights)
    with pytest.raises(FileNotFoundError, match="expected a MindSpore strategy file"):
        convert("run/checkpoint", "back", reverse=True, config=checkpoint_dir("a56"), strategy="nowhere")


def test_parts_of_a_grid():
    cut = Cut(devices=(2, 2, 2), axes=((0,), (2,)), optimizer=2)
    assert cut.parts == (4, 2)
    assert [cut.part(rank) for rank in range(8)] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip
    assert cut.part(8) == cut.part(0)  # the next pipeline stage
