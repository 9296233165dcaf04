"""What is an original's directory, and its config.json in our keys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mindformers_qwenvl.config.original import (
    is_original,
    is_original_directory,
    original_settings,
    original_sizes,
    our_settings,
    read_original,
)
from mindformers_qwenvl.config.sizes import LanguageSettings, VisionSettings
from mindformers_qwenvl.weights.shapes import original_shapes
from tests.support.golden import SETS, golden_set

ORIGINAL = golden_set("a56").config


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (ORIGINAL, True),
        ({"visual": {}}, True),
        ({"visual": {}, "model_type": "qwen"}, True),
        ({"visual": {}, "model_type": "chatglm"}, False),
        ({"model_type": "qwen"}, False),  # the text-only Qwen
        ({"model_type": "qwenvl"}, False),  # ours
        (["visual"], False),
        (None, False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_original(settings, answer, tmp_path):
    assert is_original(settings) is answer
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert is_original_directory(tmp_path) is answer
    if not answer:
        with pytest.raises(ValueError, match=r"config\.json(: expected a JSON object| is not the config\.json of an)"):
            read_original(tmp_path)


@pytest.mark.parametrize("directory", ["nowhere", "", 7, None])
def test_what_is_not_a_directory_is_not_original(directory):
    assert is_original_directory(directory) is False


def test_damaged_json(tmp_path):
    (tmp_path / "config.json").write_text('{"visual"')
    assert not is_original_directory(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_original(tmp_path)


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors"])
def test_read_from_the_folder_the_file_or_a_weight_file_beside_it(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ORIGINAL), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    assert read_original(tmp_path / name) == ORIGINAL


def test_our_settings():
    settings = our_settings(ORIGINAL)
    llm, vision = settings["llm_model"]["model_config"], settings["vision_model"]["model_config"]
    assert llm["intermediate_size"] == ORIGINAL["intermediate_size"] // 2
    assert (
        llm["train_seq_length"] == ORIGINAL["seq_length"] and llm["seq_length"] == ORIGINAL["max_position_embeddings"]
    )
    assert vision["hidden_size"] == ORIGINAL["visual"]["width"]
    assert vision["num_queries"] == settings["num_queries"] == ORIGINAL["visual"]["n_queries"]


@pytest.mark.parametrize("name", [*SETS, "qwen-vl-9.6b"])
def test_to_our_keys_and_back(name):
    original = golden_set(name).config
    settings = our_settings(original)
    vision, llm = (SimpleNamespace(**settings[part]["model_config"]) for part in ("vision_model", "llm_model"))
    assert original_shapes(original_sizes(vision, llm)) == original_shapes(original)
    config = SimpleNamespace(vision=vision, llm=llm, image_start_id=settings["image_start_id"])
    assert our_settings(json.loads(json.dumps(original_settings(config)))) == settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual": None}, "visual must be an object with the fields of the vision tower, got None"),
        ({"visual": {}}, "it has no 'image_start_id'"),
        ({"vocab_size": ...}, "it has no 'vocab_size'"),
    ],
    ids=str,
)
def test_what_is_missing_is_named(change, words):
    settings = {key: value for key, value in {**ORIGINAL, **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=re.escape(words)):
        our_settings(settings)


def test_mindformers_is_not_imported():
    code = (
        "import sys, mindformers_qwenvl.config.original\n"
        "from mindformers_qwenvl.weights import hooks, load\n"
        "assert not {'mindspore', 'mindformers', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(("wide", "width"), [(8192, 1664), (464, 400), (96, 64), (315, 64)])
def test_the_ratio_of_the_mlp_gives_its_width(wide, width):
    """464 / 400: 1.16 times 400 is 463.99..., in floating point."""
    vision, llm = SimpleNamespace(**vars(VisionSettings(hidden_size=width, intermediate_size=wide))), LanguageSettings()
    llm = SimpleNamespace(**vars(llm), initializer_range=0.02, rms_norm_eps=1e-6, train_seq_length=2048)
    vars(llm).update(rotary_emb_base=10000.0, rotary_pct=1.0, use_dynamic_ntk=True, use_logn_attn=True)
    config = SimpleNamespace(vision=vision, llm=llm, image_start_id=151857, num_queries=256)
    visual = original_settings(config)["visual"]
    assert int(visual["width"] * visual["mlp_ratio"]) == wide
