"""Graphs of many cards compile, and every weight is cut as it should be. Nothing is computed: see stub.py."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.weights.sharding import model_parallel_axis
from tests.support.compiled import Compiled, DoesNotCompile

TWO_LAYERS = {"vision_model": {"num_hidden_layers": 2}, "llm_model": {"num_layers": 2}}
# MindFormers' CrossEntropyLoss divides two sums; neither scalar can be cut.
SCALARS_OF_THE_HOST = ["Add", "RealDiv"]

CACHES = ("key_cache", "value_cache")  # cut by heads, their axis 2


def expected(name: str, shape: list[int], mp: int, vocab_emb_dp: bool = False) -> tuple[int, ...]:
    """Pieces of each dimension by the table that the estimate counts with, and those of the cache."""
    axis = 2 if name.endswith(CACHES) else model_parallel_axis(name, vocab_emb_dp)
    return tuple(mp if index == axis else 1 for index in range(len(shape)))


def assert_weights(found: Compiled, mp: int, vocab_emb_dp: bool = False) -> None:
    """Every weight of this card's graph; with its optimizer's moments, which have to be cut alike."""
    names = [name for name in found.shapes if name in found.layouts]
    assert names
    wrong = {
        name: (found.slices(name), expected(name, found.shapes[name], mp, vocab_emb_dp))
        for name in names
        if found.slices(name) != expected(name, found.shapes[name], mp, vocab_emb_dp)
    }
    assert not wrong, f"pieces of each dimension, found and expected: {wrong}"
    for name in names:
        for moment in ("adam_m", "adam_v"):
            if f"{moment}.{name}" in found.layouts:
                assert found.layouts[f"{moment}.{name}"] == found.layouts[name]


def assert_rows_over_dp(found: Compiled, dp: int) -> None:
    """What works on rows of the batch works on 1 / dp of them, from the first operator to the loss."""
    of_rows = ("MatMul", "BatchMatMul", "LayerNorm", "FlashAttentionScore", "RmsNorm", "Softmax", "RotaryPosition")
    for name, inputs in found.strategies.items():
        operator = name.rpartition("/")[2]
        # Tables and the queries of the resampler are the same for all rows.
        if operator.startswith(of_rows) and "resized-" not in name and "ln_q-" not in name and "wq-" not in name:
            assert inputs[0][0] == dp, (name, inputs)
        if "merge-ImageMerge" in name and operator.startswith(("BatchMatMul", "Mul", "Add")):
            assert inputs == [[dp, 1, 1], [dp, 1, 1]], (name, inputs)


def assert_strategies(found: Compiled, allowed: list[str]) -> None:
    assert set(found.without) <= set(allowed), f"operators without a strategy: {sorted(found.without)}"


def assert_forms(found: Compiled, fused: bool) -> None:
    """The operators of Ascend or the plain ones, not what takes their place where nothing is sharded."""
    assert not found.whole
    operators = {name.rpartition("/")[2].rpartition("-")[0] for name in found.strategies}
    fused = fused and any(".transformer.layers." in name for name in found.layouts)  # a stage may have none
    assert ("RmsNorm" in operators, "RotaryPositionEmbedding" in operators) == (fused, fused), sorted(operators)


def check_train(found: Compiled, dp: int, mp: int, fused: bool = True, **other) -> None:
    assert_weights(found, mp, **other)
    assert_rows_over_dp(found, dp)
    assert_strategies(found, SCALARS_OF_THE_HOST)
    assert_forms(found, fused)


def check_predict(found: Compiled, dp: int, mp: int, **other) -> None:
    assert_weights(found, mp, **other)
    assert_rows_over_dp(found, dp)
    assert_strategies(found, [])
    assert_forms(found, fused=True)


def test_train_step_with_every_kind_but_stages(compiled):
    """Data, model and optimizer parallel on 8; each card reads its own rows of the batch."""
    found = compiled(8, 5, dp=4, mp=2, optimizer_parallel=True, full_batch=False, vision_lr_decay=0.95)
    check_train(found, dp=4, mp=2)
    # The optimizer cuts matrices once more, over the cards that hold the same piece.
    matrices = [name for name in found.layouts if name in found.shapes and name.endswith("w1.weight")]
    assert matrices and all(found.layouts[name]["optimizer_group"] for name in matrices)
    (dataset,) = [cuts for name, cuts in found.strategies.items() if name.rpartition("/")[2].startswith("_Virtual")]
    assert dataset == [[4, 1], [4, 1, 1, 1, 1], [4, 1, 1, 1], [4, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 3])
def test_stages(compiled, rank):
    """The vision tower and half of the language model on the first, the rest on the second."""
    found = compiled(4, rank, dp=2, pp=2, model={**TWO_LAYERS, "layers_per_stage": [3, 1]})
    check_train(found, dp=2, mp=1)
    layers = {name.split(".")[3] for name in found.layouts if name.startswith("llm_model.transformer.layers.")}
    assert layers == {str(rank // 2)}
    first = rank < 2
    assert any(name.startswith("vision_encoder.") for name in found.layouts) == first
    assert ("llm_model.transformer.wte.embedding_weight" in found.layouts) == first
    assert ("llm_model.lm_head.weight" in found.layouts) != first


@pytest.mark.parametrize("task", [pytest.param("prefill", marks=pytest.mark.slow), "decode"])
def test_prediction(compiled, task):
    check_predict(compiled(4, 1, task=task, dp=2, mp=2), dp=2, mp=2)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["served_vision", "served_prefill", "served_decode"])
def test_steps_of_a_server(compiled, task):
    """What `serve` compiles where cards share its network: a picture, a prompt with its vectors, two rows."""
    found = compiled(2, dp=1, mp=2, task=task)
    assert_weights(found, 2)
    assert_strategies(found, [])
    assert not found.whole


@pytest.mark.slow
def test_a_wrong_strategy_does_not_compile(compiled):
    with pytest.raises(DoesNotCompile, match="MatMul"):
        compiled(2, task="decode", mp=2, wrong="heads")


@pytest.mark.slow
def test_a_layer_that_is_not_cut_is_noticed(compiled):
    found = compiled(2, task="decode", mp=2, wrong="rows")
    with pytest.raises(AssertionError, match=r"feed_forward\.w1"):
        check_predict(found, dp=1, mp=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "task"),
    [
        (2, {"dp": 2}),
        (2, {"mp": 2}),
        (2, {"mp": 2, "fused": False}),
        (2, {"dp": 2, "optimizer_parallel": True}),
        (4, {"dp": 4, "full_batch": False}),
        (4, {"dp": 2, "mp": 2, "fused": False}),
        (4, {"dp": 4, "optimizer_parallel": True, "full_batch": False}),
        (8, {"dp": 2, "mp": 4}),
        (8, {"dp": 8, "optimizer_parallel": True}),
    ],
    ids=str,
)
def test_train_steps(compiled, workers, task):
    check_train(compiled(workers, workers - 1, **task), task.get("dp", 1), task.get("mp", 1), task.get("fused", True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "layers", "first"),
    [
        (2, {"layers_per_stage": [2, 2]}, 2),
        (2, {"layers_per_stage": [1, 3]}, 1),
        (2, {"vision_model": {"offset": [1, -1]}, "llm_model": {"offset": 0}}, 2),
        (8, {"layers_per_stage": [3, 1]}, 2),
    ],
    ids=str,
)
def test_more_stages(compiled, workers, layers, first):
    """`first`: blocks of the vision tower on the first stage. Every layer is on one stage, and none is lost."""
    model = {part: {**TWO_LAYERS[part], **layers.get(part, {})} for part in TWO_LAYERS}
    model |= {name: value for name, value in layers.items() if name not in model}
    task = {"dp": 2, "mp": 2, "optimizer_parallel": True} if workers == 8 else {}
    parts = [compiled(workers, rank, pp=2, model=model, **task) for rank in (0, workers - 1)]
    for found in parts:
        check_train(found, task.get("dp", 1), task.get("mp", 1))
    blocks = {name.split(".")[3] for name in parts[0].layouts if name.startswith("vision_encoder.transformer.")}
    assert len(blocks) == first
    shared = set(parts[0].shapes) & set(parts[0].layouts) & set(parts[1].layouts)
    assert not shared
    assert set(parts[0].shapes) <= set(parts[0].layouts) | set(parts[1].layouts)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["prefill", "decode"])
@pytest.mark.parametrize(("workers", "dp", "mp"), [(2, 1, 2), (4, 4, 1), (4, 1, 4), (8, 2, 4)])
def test_predictions(compiled, task, workers, dp, mp):
    check_predict(compiled(workers, workers - 1, task=task, dp=dp, mp=mp), dp, mp)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train", "decode"])
def test_whole_vocabulary(compiled, task):
    found = compiled(4, 2, task=task, dp=2, mp=2, vocab_emb_dp=True)
    check = check_train if task == "train" else check_predict
    check(found, dp=2, mp=2, vocab_emb_dp=True)


PUBLISHED = {
    "vision_model": {
        "hidden_size": 1664,
        "intermediate_size": 8192,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "image_size": 448,
    },
    "llm_model": {
        "hidden_size": 4096,
        "num_layers": 32,
        "num_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 151936,
        "seq_length": 2048,
        "train_seq_length": 2048,
    },
    "num_queries": 256,
    "image_start_id": 151857,
}


@pytest.mark.slow
def test_the_published_size_on_two(compiled):
    """9.6 billion parameters, none of them allocated: both workers together within 12 GB."""
    found = [compiled(2, rank, mp=2, model=PUBLISHED) for rank in (0, 1)]
    for part in found:
        check_train(part, dp=1, mp=2)
    assert sum(part.memory for part in found) < 12e9
