"""The table of names covers the published checkpoint and the golden sets exactly, both ways; shapes too."""

from __future__ import annotations

import json
import math

import pytest

from mindformers_qwenvl.weights.names import TABLE, Part, is_training_state, layout, to_original, to_ours
from mindformers_qwenvl.weights.shapes import check_shapes, listed, original_shapes, our_shapes
from tests.support.golden import SETS, golden_set, maker

PUBLISHED = golden_set("qwen-vl-9.6b")


def published_names() -> list[str]:
    index = json.loads((PUBLISHED.directory / "pytorch_model.bin.index.json").read_text())
    return list(index["weight_map"])


def test_the_published_index_is_what_its_config_gives():
    names = published_names()
    assert len(names) == 853
    assert set(original_shapes(PUBLISHED.config)) == set(names)


def test_every_published_name_goes_to_ours_and_back():
    seen = set()
    for name in published_names():
        parts = to_ours(name)
        assert parts
        for index, part in enumerate(parts):
            assert to_original(part) == Part(name, index, len(parts))
            assert part not in seen
            seen.add(part)
    assert seen == set(our_shapes(PUBLISHED.config))


def test_every_pattern_is_used_by_the_published_checkpoint_or_dropped():
    used = {name for name in TABLE if TABLE[name]}
    met = {pattern for pattern in used for name in published_names() if _fits(pattern, name)}
    assert met == used


def _fits(pattern: str, name: str) -> bool:
    head, _, tail = pattern.partition("{}")
    if "{}" not in pattern:
        return name == pattern
    return name.startswith(head) and name.endswith(tail) and name[len(head) : len(name) - len(tail)].isdigit()


def test_the_published_config_counts_its_parameters():
    assert sum(map(math.prod, original_shapes(PUBLISHED.config).values())) == 9_656_935_168


@pytest.mark.parametrize("name", SETS)
def test_shapes_of_the_small_sets(name):
    config = golden_set(name).config
    assert original_shapes(config) == maker().parameter_shapes(config)


def test_equal_widths_have_no_projection():
    name = "transformer.visual.attn_pool.kv_proj.weight"
    assert name not in original_shapes(golden_set("b224").config)
    assert name in original_shapes(golden_set("a56").config)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("transformer.wte.weight", ("llm_model.transformer.wte.embedding_weight",)),
        (
            "transformer.h.31.attn.c_attn.bias",
            tuple(f"llm_model.transformer.layers.31.attention.{part}.bias" for part in ("wq", "wk", "wv")),
        ),
        ("transformer.h.0.mlp.w2.weight", ("llm_model.transformer.layers.0.feed_forward.w3.weight",)),
        ("transformer.h.7.mlp.c_proj.weight", ("llm_model.transformer.layers.7.feed_forward.w2.weight",)),
        ("transformer.visual.ln_post.bias", ("vision_encoder.ln_post.beta",)),
        (
            "transformer.visual.transformer.resblocks.47.attn.in_proj.weight",
            ("vision_encoder.transformer.resblocks.47.attn.in_proj.weight",),
        ),
        (
            "transformer.visual.attn_pool.attn.in_proj_weight",
            tuple(f"vision_encoder.attn_pool.attn.{part}.weight" for part in ("wq", "wk", "wv")),
        ),
        ("transformer.visual.proj", ("vision_encoder.proj",)),
        ("transformer.h.3.attn.masked_bias", ()),
    ],
)
def test_names(theirs, ours):
    assert to_ours(theirs) == ours


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.{}.ln_1.weight",
        "transformer.h.01.ln_1.weight",
        "transformer.h.ln_1.weight",
        "transformer.h.1.2.ln_1.weight",
        "transformer.wte.weight.extra",
        "model.layers.0.self_attn.q_proj.weight",
        "llm_model.lm_head.weight",
        "",
    ],
)
def test_an_unknown_original_name_raises(name):
    with pytest.raises(ValueError, match="is not a tensor of an original"):
        to_ours(name)


@pytest.mark.parametrize("name", ["lm_head.weight", "llm_model.transformer.layers.{}.ffn_norm.weight", "adam_m.x"])
def test_an_unknown_name_of_ours_raises(name):
    with pytest.raises(ValueError, match="is not a parameter of this Qwen-VL"):
        to_original(name)


def test_no_parameter_is_training_state():
    assert not any(is_training_state(name) for name in our_shapes(PUBLISHED.config))
    assert is_training_state("adam_m.llm_model.lm_head.weight")
    assert is_training_state("global_step")
    assert is_training_state("global_batch_size")


def test_layout():
    assert layout(original_shapes(PUBLISHED.config), "x") == "original"
    ours = list(our_shapes(PUBLISHED.config))
    assert layout([*ours, *(f"adam_m.{name}" for name in ours)], "x") == "ours"
    with pytest.raises(ValueError, match=r"some/folder is not a Qwen-VL checkpoint: found model\.embed"):
        layout(["model.embed"], "some/folder")


def test_a_faulty_checkpoint_lists_every_fault():
    expected = our_shapes(golden_set("a56").config)
    found = dict(expected)
    gone = [name for name in found if ".attention.wk." in name]
    for name in gone:
        del found[name]
    found["llm_model.transformer.layers.2.ffn_norm.weight"] = (256,)
    found["vision_encoder.proj"] = (256, 128)
    with pytest.raises(ValueError, match="here does not match") as caught:
        check_shapes(found, expected, "here")
    message = str(caught.value)
    assert f"{len(gone)} missing" in message
    assert all(name in message for name in gone)
    assert "1 not of this model: llm_model.transformer.layers.2.ffn_norm.weight" in message
    assert "vision_encoder.proj is [256, 128], config.json asks for [256, 256]" in message


def test_long_lists_are_shortened():
    text = listed([f"n{i}" for i in range(100)])
    assert "n0, n1," in text
    assert "... 60 more ..." in text
    assert text.endswith("n98, n99")


@pytest.mark.parametrize("field", ["hidden_size", "visual"])
def test_a_config_without_a_field_is_named(field):
    config = dict(golden_set("a56").config)
    del config[field]
    with pytest.raises(ValueError, match=f"has no '{field}'"):
        original_shapes(config)


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ("", "visual", None, "visual is null, expected an object"),
        ("", "visual", [1], r"visual is \[1\], expected an object"),
        ("", "num_hidden_layers", 2.0, "num_hidden_layers is 2.0, expected a whole number of 1 or more"),
        ("", "num_hidden_layers", "2", 'num_hidden_layers is "2", expected a whole number of 1 or more'),
        ("", "num_hidden_layers", 10**9, "num_hidden_layers is 1000000000, expected a whole number from 1 to 10000"),
        ("", "hidden_size", None, "hidden_size is null, expected a whole number of 1 or more"),
        ("", "intermediate_size", "704", 'intermediate_size is "704", expected a whole number of 1 or more'),
        ("", "vocab_size", True, "vocab_size is true, expected a whole number of 1 or more"),
        ("visual", "layers", None, "layers is null, expected a whole number of 1 or more"),
        ("visual", "n_queries", 0, "n_queries is 0, expected a whole number of 1 or more"),
        ("visual", "mlp_ratio", "4.9", 'mlp_ratio is "4.9", expected a number'),
        ("visual", "mlp_ratio", float("nan"), "mlp_ratio is NaN, expected a number"),
    ],
)
def test_a_config_with_another_kind_of_value_is_named(place, key, value, message):
    config = dict(golden_set("a56").config)
    if place:
        config[place] = config[place] | {key: value}
    else:
        config[key] = value
    with pytest.raises(ValueError, match=f"^config.json: {message}"):
        original_shapes(config)
