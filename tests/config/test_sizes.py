"""The one source of sizes: its defaults reach the configurations and the estimate, its checks name what is wrong."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
import yaml

from mindformers_qwenvl.config.sizes import (
    LanguageSettings,
    VisionSettings,
    check_language,
    check_parts,
    check_split,
    check_vision,
    language_split,
    stages_by_offset,
    vision_split,
    vit_mlp_width,
)
from mindformers_qwenvl.estimate import read_job
from mindformers_qwenvl.registration import yaml_dir

VISION, LANGUAGE = VisionSettings(), LanguageSettings()


def test_the_published_sizes_pass():
    check_vision(VISION)
    check_language(LANGUAGE)
    check_parts(VISION, LANGUAGE)
    for cards in (1, 2, 4, 8, 16):
        check_split(vision_split(VISION) | language_split(LANGUAGE, vocab_emb_dp=False), cards)
    assert (VISION.intermediate_size, VISION.num_patches, vit_mlp_width(64)) == (8192, 1024, 315)


def test_a_configuration_without_sizes_has_the_defaults():
    from mindformers.models.utils import convert_mstype

    from mindformers_qwenvl import QwenVLConfig

    config = QwenVLConfig()
    for part, defaults in ((config.vision, VISION), (config.llm, LANGUAGE)):
        for field in fields(defaults):
            value = getattr(defaults, field.name)
            expected = convert_mstype(value) if field.name.endswith(("_dtype", "_type")) else value
            assert getattr(part, field.name) == expected, field.name


def test_an_estimate_of_a_yaml_without_sizes_has_the_defaults(tmp_path):
    settings = yaml.safe_load((yaml_dir() / "predict_qwenvl_9.6b.yaml").read_text(encoding="utf-8"))
    settings["model"]["model_config"] = {"type": "QwenVLConfig"}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    job = read_job(tmp_path / "short.yaml")
    assert (job.vision, job.llm) == (VISION, LANGUAGE)


@pytest.mark.parametrize(
    ("check", "settings", "words"),
    [
        (check_vision, {"hidden_size": 100}, "hidden_size=100 must be divisible by 16 (num_attention_heads)"),
        (check_vision, {"image_size": 450}, "image_size=450 must be divisible by 14 (patch_size)"),
        (check_vision, {"output_dim": 4000}, "output_dim=4000 must be divisible by 128 (the head size"),
        (check_vision, {"num_queries": 200}, "num_queries=200 must be a square number"),
        (check_vision, {"num_queries": 256.0}, "num_queries must be a whole number of 1 or more, got 256.0"),
        (check_vision, {"num_attention_heads": 0}, "num_attention_heads must be a whole number of 1 or more, got 0"),
        (check_vision, {"patch_size": True}, "patch_size must be a whole number of 1 or more, got True"),
        (check_language, {"num_heads": 30}, "num_heads=30 times kv_channels=128 is 3840, which must equal hidden_size"),
        (check_language, {"vocab_size": "many"}, "vocab_size must be a whole number of 1 or more, got 'many'"),
    ],
)
def test_what_does_not_fit_is_named(check, settings, words):
    defaults = VISION if check is check_vision else LANGUAGE
    with pytest.raises(ValueError, match=re.escape(words)):
        check(replace(defaults, **settings))


def test_the_widths_of_the_two_parts_must_be_equal():
    with pytest.raises(ValueError, match=r"output_dim=2048 \(proj_output_dim\) must equal .* hidden_size=4096"):
        check_parts(replace(VISION, output_dim=2048), LANGUAGE)


def test_all_that_the_cards_cannot_share_is_named():
    words = "model_parallel=3 cards cannot share num_heads=32, hidden_size=4096, intermediate_size=11008 evenly"
    with pytest.raises(ValueError, match=f"{words}; choose a model_parallel that divides each of them"):
        check_split(language_split(LANGUAGE, vocab_emb_dp=True), 3)
    with pytest.raises(ValueError, match=r"cannot share vocab_size=151935 evenly; .* divides it"):
        check_split(language_split(replace(LANGUAGE, vocab_size=151935), vocab_emb_dp=False), 2)


@pytest.mark.parametrize(
    ("layers", "offset", "stages", "placed"),
    [
        (4, 0, 2, [0, 0, 1, 1]),
        (5, [1, 0], 2, [0, 0, 0, 1, 1]),
        (2, [1, -1], 2, [0, 0]),
        (2, [1, 0], 2, None),
        (5, 0, 2, None),
        (2, [-2, 2], 2, None),
    ],
)
def test_layers_on_stages(layers, offset, stages, placed):
    if placed is not None:
        assert stages_by_offset(layers, offset, stages) == placed
        return
    with pytest.raises(ValueError, match=re.escape(f"{layers} layers on {stages} pipeline stages")):
        stages_by_offset(layers, offset, stages)
