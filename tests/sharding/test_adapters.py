"""Adapters in graphs of many cards: A and B are cut beside their layers, and nothing else is trained."""

from __future__ import annotations

import pytest

PET = {"pet_type": "lora", "lora_rank": 8, "lora_dropout": 0.05}
PET |= {"target_modules": ["c_attn", "attn.c_proj", "w1", "w2", "mlp.c_proj", "in_proj", "c_fc", "kv_proj", "lm_head"]}
# MindFormers' CrossEntropyLoss divides two sums; neither scalar can be cut.
SCALARS_OF_THE_HOST = ["Add", "RealDiv"]
ROWS, COLUMNS, WHOLE = "rows", "columns", "whole"
CUT = {
    "wq": (WHOLE, ROWS),  # of A and of B
    "wk": (WHOLE, ROWS),
    "wv": (WHOLE, ROWS),
    "attention": (WHOLE, None),  # the A of these three
    "w1": (WHOLE, ROWS),
    "w3": (WHOLE, ROWS),
    "in_proj": (WHOLE, ROWS),
    "c_fc": (WHOLE, ROWS),
    "kv_proj": (WHOLE, ROWS),
    "lm_head": (WHOLE, ROWS),
    "wo": (COLUMNS, WHOLE),
    "w2": (COLUMNS, WHOLE),
    "c_proj": (COLUMNS, WHOLE),
}


def expected(name: str, mp: int) -> tuple[int, int]:
    layer, factor = name.split(".")[-3:-1]
    cut = CUT[layer][factor == "lora_b"]
    return (mp if cut == ROWS else 1, mp if cut == COLUMNS else 1)


def check(found, mp: int) -> None:
    assert sorted(set(found.without)) in ([], SCALARS_OF_THE_HOST)
    factors = [name for name in found.shapes if ".lora_" in name]
    assert {name.split(".")[-3] for name in factors} == set(CUT)
    for name in factors:
        for parameter in (name, *(other for other in found.layouts if other.endswith(name))):
            piece = found.layouts[parameter]["slice"]
            cuts = tuple(whole // part for whole, part in zip(found.shapes[name], piece, strict=True))
            assert cuts == expected(name, mp), parameter
    states = [name for name in found.layouts if name not in found.shapes and "." in name]  # not the inputs
    assert states and all(".lora_" in name for name in states)  # moments of adapters, and of nothing else


@pytest.mark.slow
def test_data_and_model_parallel(compiled):
    check(compiled(4, 1, dp=2, mp=2, model={"pet_config": PET}), mp=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "task"), [(2, {"mp": 2}), (2, {"dp": 2}), (4, {"dp": 1, "mp": 4}), (2, {"mp": 2, "fused": False})]
)
def test_train_steps(compiled, workers, task):
    check(compiled(workers, workers - 1, model={"pet_config": PET}, **task), task.get("mp", 1))


@pytest.mark.slow
def test_stages(compiled):
    layers = {"vision_model": {"num_hidden_layers": 2}, "llm_model": {"num_layers": 2}, "layers_per_stage": [2, 2]}
    first, last = (compiled(4, rank, dp=2, pp=2, model={**layers, "pet_config": PET}) for rank in (0, 3))
    assert {name for name in first.layouts if "llm_model" in name and ".lora_" in name} == set()
    assert {name for name in last.layouts if "vision" in name and ".lora_" in name} == set()
    assert any(".lora_b." in name for name in last.layouts)


@pytest.mark.parametrize("task", [pytest.param("prefill", marks=pytest.mark.slow), "decode"])
def test_prediction(compiled, task):
    found = compiled(4, 1, task=task, dp=2, mp=2, model={"pet_config": PET})
    for name in [name for name in found.shapes if ".lora_" in name and name in found.layouts]:
        assert found.slices(name) == expected(name, 2), name
