"""Which part a parameter belongs to, and which of its axes the cards share, for every parameter there is."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from mindformers_qwenvl.weights.parts import (
    LANGUAGE,
    RESAMPLER,
    VISION,
    Place,
    is_norm,
    is_rms_norm,
    part_of,
    place_of,
    rate_factors,
    trained_parts,
)
from mindformers_qwenvl.weights.shapes import our_shapes
from mindformers_qwenvl.weights.sharding import model_parallel_axis, optimizer_parallel_shares
from tests.support.golden import golden_set

CONFIG = golden_set("qwen-vl-9.6b").config
SHAPES = our_shapes(CONFIG)


def test_every_parameter_has_a_place():
    parts = Counter(part_of(name) for name in SHAPES)
    layers = {part: {place_of(name).layer for name in SHAPES if part_of(name) == part} - {None} for part in parts}
    assert parts == {VISION: 48 * 12 + 7, RESAMPLER: 15, LANGUAGE: 32 * 12 + 3}
    assert layers == {VISION: set(range(48)), RESAMPLER: set(), LANGUAGE: set(range(32))}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("vision_encoder.conv1.weight", Place(VISION)),
        ("vision_encoder.positional_embedding", Place(VISION)),
        ("vision_encoder.ln_pre.beta", Place(VISION)),
        ("vision_encoder.transformer.resblocks.47.mlp.c_fc.bias", Place(VISION, 47)),
        ("vision_encoder.ln_post.gamma", Place(VISION, after_layers=True)),
        ("vision_encoder.proj", Place(VISION, after_layers=True)),
        ("vision_encoder.attn_pool.attn.wo.bias", Place(RESAMPLER, after_layers=True)),
        ("vision_encoder.attn_pool.ln_kv.gamma", Place(RESAMPLER, after_layers=True)),
        ("llm_model.transformer.wte.embedding_weight", Place(LANGUAGE)),
        ("llm_model.transformer.layers.3.feed_forward.w1.weight", Place(LANGUAGE, 3)),
        ("llm_model.transformer.ln_f.weight", Place(LANGUAGE, after_layers=True)),
        ("llm_model.lm_head.weight", Place(LANGUAGE, after_layers=True)),
        # A part alone, and a wrapper around it all.
        ("transformer.resblocks.2.ln_1.gamma", Place(VISION, 2)),
        ("proj", Place(VISION, after_layers=True)),
        ("network.llm_model.transformer.layers.3.attention.wq.weight", Place(LANGUAGE, 3)),
    ],
)
def test_places(name, place):
    assert place_of(name) == place


@pytest.mark.parametrize("name", ["wq.weight", "global_step", "transformer.h.0.ln_1.weight", "", "out_proj"])
def test_a_name_of_another_model_has_none(name):
    assert place_of(name) is None
    with pytest.raises(ValueError, match="is not a parameter of Qwen-VL"):
        part_of(name)


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ((), {VISION, RESAMPLER, LANGUAGE}),
        (("freeze_vision",), {RESAMPLER, LANGUAGE}),
        (("freeze_resampler", "freeze_llm"), {VISION}),
        (("freeze_vision", "freeze_resampler", "freeze_llm"), set()),
    ],
)
def test_a_part_is_trained_unless_its_switch_says_otherwise(frozen, trained):
    settings = dict.fromkeys(("freeze_vision", "freeze_resampler", "freeze_llm"), False) | dict.fromkeys(frozen, True)
    assert trained_parts(SimpleNamespace(**settings)) == trained


def test_norms():
    norms = {name for name in SHAPES if is_norm(name)}
    assert {name for name in norms if is_rms_norm(name)} == {name for name in norms if part_of(name) == LANGUAGE}
    assert norms == {name for name in SHAPES if "norm" in name or ".ln_" in name}


def test_rates_fall_from_layer_to_layer_of_the_tower():
    factors = dict(zip(SHAPES, rate_factors(list(SHAPES), 0.5), strict=True))
    for name, factor in factors.items():
        part, layer, after_layers = place_of(name)
        learns_fully = part != VISION or after_layers
        assert factor == (1.0 if learns_fully else 0.5 ** (49 if layer is None else 48 - layer)), name
    assert rate_factors(["wq.weight"], 0.5) == (1.0,)


def test_matrices_are_cut_along_one_axis_and_the_rest_is_whole():
    for name, shape in SHAPES.items():
        axis = model_parallel_axis(name)
        if place_of(name).layer is not None and len(shape) == 2:
            assert axis is not None and optimizer_parallel_shares(name), name
        if is_norm(name) or name.endswith(("positional_embedding", "query", "pos_embed")):
            assert axis is None and not optimizer_parallel_shares(name), name
        if axis is not None:
            assert shape[axis] % 16 == 0, name
        # The bias of what is cut by rows is cut; the bias of what is cut by columns is added once.
        if name.endswith(".bias"):
            of_weight = model_parallel_axis(f"{name.removesuffix('.bias')}.weight")
            assert axis == (0 if of_weight == 0 else None), name


@pytest.mark.parametrize("name", ["llm_model.transformer.wte.embedding_weight", "llm_model.lm_head.weight"])
def test_a_whole_vocabulary_is_not_cut(name):
    assert model_parallel_axis(name) == 0
    assert model_parallel_axis(name, vocab_emb_dp=True) is None
