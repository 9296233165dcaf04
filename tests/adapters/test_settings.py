"""adapter_config.json and pet_config: what is read, what is refused by name."""

from __future__ import annotations

import json

import pytest

from mindformers_qwenvl.adapters.settings import AdapterSettings, as_pet_config, from_pet_config, matches, read_settings
from tests.support.lora import adapter_dir

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}


def read(tmp_path, **changes):
    (tmp_path / "adapter_config.json").write_text(json.dumps({**PLAIN, **changes}), encoding="utf-8")
    return read_settings(tmp_path)


def test_golden():
    settings = read_settings(adapter_dir("a56", "adapter_base"))
    assert (settings.rank, settings.alpha, settings.dropout) == (8, 16, 0.0)
    assert settings.targets == ("c_attn", "attn.c_proj", "w1", "w2")
    assert settings.modules_to_save == ("wte", "lm_head")
    assert settings.scale("transformer.h.0.attn.c_attn") == 2.0


def test_what_is_written_is_read_back(tmp_path):
    settings = read_settings(adapter_dir("a56", "adapter_base"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings.as_dict()), encoding="utf-8")
    assert read_settings(tmp_path) == settings
    golden = json.loads((adapter_dir("a56", "adapter_base") / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings.as_dict() == golden


def test_patterns(tmp_path):
    """As peft has them: a name, the end of one from a dot on, or a regular expression for such an end."""
    settings = read(
        tmp_path,
        rank_pattern={"transformer.h.1.mlp.w1": 4, "attn.c_proj": 2, r"h\.\d+\.mlp\.w2": 6},
        alpha_pattern={"c_attn": 64},
        use_rslora=True,
    )
    assert settings.rank_of("transformer.h.1.mlp.w1") == 4
    assert settings.rank_of("transformer.h.0.mlp.w1") == 8
    assert settings.rank_of("transformer.h.0.attn.c_proj") == 2
    assert settings.rank_of("transformer.visual.attn_pool.attn.out_c_proj") == 8
    assert settings.rank_of("transformer.h.11.mlp.w2") == 6
    assert settings.scale("transformer.h.0.attn.c_attn") == 64 / 8**0.5
    assert settings.scale("transformer.h.0.attn.c_proj") == 16 / 2**0.5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": None}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is true"),
        ({"r": None}, "r is null"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_dropout": 1}, "lora_dropout"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"rank_pattern": [8]}, "rank_pattern"),
        ({"rank_pattern": {"c_attn": -1}}, "rank_pattern"),
        ({"rank_pattern": {"(a+)+$": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"c_attn(": 8}}, "alpha_pattern"),
        ({"modules_to_save": "wte"}, "modules_to_save"),
    ],
)
def test_refused_by_name(tmp_path, changes, named):
    with pytest.raises(ValueError, match=r"adapter_config\.json") as refused:
        read(tmp_path, **changes)
    assert named in str(refused.value)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        read_settings(tmp_path)
    for content in ("[]", "{", "[" * 100_000):
        (tmp_path / "adapter_config.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"adapter_config\.json"):
            read_settings(tmp_path)


def test_fan_in_fan_out_is_ignored_aloud(tmp_path):
    assert "fan_in_fan_out" in read(tmp_path, fan_in_fan_out=True).notes[0]
    assert not read(tmp_path).notes


@pytest.mark.parametrize(
    ("wanted", "module", "expected"),
    [
        (["c_attn"], "transformer.h.0.attn.c_attn", True),
        (["attn"], "transformer.h.0.attn.c_attn", False),
        (["attn.c_proj"], "transformer.h.0.mlp.c_proj", False),
        (["transformer.h.0.mlp.w1"], "transformer.h.0.mlp.w1", True),
        (["h.0.mlp.w1"], "transformer.h.10.mlp.w1", False),
        (r"transformer\.h\.\d\.mlp\.w[12]", "transformer.h.3.mlp.w2", True),
        (r"mlp\.w[12]", "transformer.h.3.mlp.w2", False),
        ("all-linear", "transformer.h.3.mlp.w2", True),
        ("all-linear", "lm_head", False),
    ],
)
def test_targets_match_as_in_peft(wanted, module, expected):
    assert matches(module, wanted) is expected


def test_pet_config():
    settings = from_pet_config({"pet_type": "lora", "target_modules": ["w1"], "lora_rank": 4, "lora_dropout": None})
    assert (settings.rank, settings.alpha, settings.dropout, settings.targets) == (4, 16, 0.05, ("w1",))
    assert from_pet_config(as_pet_config(settings)) == settings
    assert from_pet_config({}).targets == ("c_attn", "attn.c_proj", "w1", "w2")
    assert isinstance(from_pet_config({}), AdapterSettings)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"pet_type": "ptuning2"}, "pet_type"),
        ({"freeze_include": ["*"]}, "freeze_include"),
        ({"lora_rank": 1.5}, "lora_rank"),
        ({"target_modules": "("}, "target_modules"),
        ({"target_modules": 3}, "target_modules"),
    ],
)
def test_pet_config_is_refused_by_name(given, named):
    with pytest.raises(ValueError, match="pet_config") as refused:
        from_pet_config(given)
    assert named in str(refused.value)
