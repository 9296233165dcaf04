"""The operations of a step against sums over the golden checkpoints' shapes, and the published size."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mindformers_qwenvl.training import flops
from tests.support.golden import SETS, golden_set, maker


def config_of(name: str, **frozen: bool) -> SimpleNamespace:
    original = golden_set(name).config
    visual = original["visual"]
    llm = SimpleNamespace(
        kv_channels=original["kv_channels"],
        num_heads=original["num_attention_heads"],
        hidden_size=original["hidden_size"],
        intermediate_size=original["intermediate_size"] // 2,
        num_layers=original["num_hidden_layers"],
        vocab_size=original["vocab_size"],
    )
    vision = SimpleNamespace(
        hidden_size=visual["width"],
        intermediate_size=int(visual["width"] * visual["mlp_ratio"]),
        num_hidden_layers=visual["layers"],
        patch_size=visual["patch_size"],
        num_patches=(visual["image_size"] // visual["patch_size"]) ** 2,
        num_queries=visual.get("n_queries", 256),
        output_dim=visual["output_dim"],
    )
    flags = {"freeze_llm": False, "freeze_vision": False, "freeze_resampler": False, **frozen}
    return SimpleNamespace(llm=llm, vision=vision, pet_config=None, **flags)


def step_flops(config, *batch) -> float:
    return flops.step_flops(config, flops.gradients_of(config), *batch)


def matrices(name: str, chosen) -> int:
    """Numbers in the weight matrices whose original name is `chosen`: each position multiplies with each of them."""
    shapes = maker().parameter_shapes(golden_set(name).config)
    sizes = 0
    for key, shape in shapes.items():
        if key.endswith("weight") and len(shape) > 1 and chosen(key):
            size = 1
            for side in shape:
                size *= side
            sizes += size
    return sizes


@pytest.mark.parametrize("name", [*SETS, "qwen-vl-9.6b"])
def test_language_model_is_six_times_its_matrices_plus_attention(name):
    config = config_of(name)
    text = matrices(name, lambda key: ".visual." not in key and ".wte." not in key)
    rows, length = 3, 40
    attention = 12 * config.llm.num_layers * config.llm.hidden_size * length
    assert step_flops(config, rows, length, 0) == rows * length * (6 * text + attention)


@pytest.mark.parametrize("name", [*SETS, "qwen-vl-9.6b"])
def test_vision_tower_is_six_times_its_matrices_plus_attention(name):
    config = config_of(name)
    vision = config.vision
    tower = matrices(name, lambda key: ".visual." in key and ".attn_pool." not in key)
    patches = vision.num_patches
    attention = 12 * vision.num_hidden_layers * vision.hidden_size * patches
    with_tower = step_flops(config, 1, 8, 2) - step_flops(config, 1, 8, 0)
    frozen = config_of(name, freeze_vision=True)
    without = step_flops(frozen, 1, 8, 2) - step_flops(frozen, 1, 8, 0)
    # Frozen it costs a third: forward alone.
    assert with_tower - without == pytest.approx(2 * patches * (6 * tower + attention) * 2 / 3, rel=1e-12)


def test_frozen_parts_cost_less():
    name = "qwen-vl-9.6b"
    whole = step_flops(config_of(name), 1, 512, 1)
    stage_3 = step_flops(config_of(name, freeze_vision=True), 1, 512, 1)
    vision_alone = step_flops(config_of(name, freeze_llm=True), 1, 512, 1)
    nothing = step_flops(config_of(name, freeze_llm=True, freeze_vision=True, freeze_resampler=True), 1, 512, 1)
    assert nothing < vision_alone < whole
    assert nothing < stage_3 < whole
    assert whole == pytest.approx(3 * nothing, rel=1e-12)


def test_published_size():
    """7.1 billion in the language model's matrices, 1.9 billion in the ViT's: the usual 6 N."""
    config = config_of("qwen-vl-9.6b")
    assert step_flops(config, 1, 1, 0) == pytest.approx(6 * 7.1e9, rel=0.01)
    assert config.vision.num_patches == 1024


def test_an_adapter_has_no_gradients_of_whole_matrices():
    """In the language model: gradients go through it, and not below. In the vision tower: through everything."""
    config = config_of("a56")
    text, pictures = (step_flops(config, *batch) for batch in ((2, 40, 0), (0, 40, 3)))
    config.pet_config = {"pet_type": "lora"}
    assert step_flops(config, 2, 40, 0) == text * 2 / 3
    assert step_flops(config, 0, 40, 3) == pytest.approx(pictures / 3)
    config.pet_config = {"pet_type": "lora", "target_modules": ["c_fc"]}
    assert step_flops(config, 0, 40, 3) == pytest.approx(pictures * 2 / 3)
