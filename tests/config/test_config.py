"""Configuration: the original's config.json, the YAML keys, and what cannot work."""

import json

import pytest
from mindspore.nn.utils import no_init_parameters

from mindformers_qwenvl import QwenConfig, QwenVL, QwenVLConfig, QwenVLVisionConfig
from tests.support.golden import SETS, golden_set

PUBLISHED = 9_656_935_168


@pytest.mark.parametrize("golden", map(golden_set, SETS), ids=SETS)
def test_original_config(golden, checkpoint_dir):
    config = QwenVLConfig.from_pretrained(str(checkpoint_dir(golden.name)))
    original = golden.config
    assert config.num_queries == golden.meta["n_queries"]
    assert config.image_start_id == golden.meta["special_ids"]["img_start_id"]
    assert config.image_pad_id == golden.meta["special_ids"]["img_pad_id"]
    assert config.pad_token_id == config.eos_token_id == golden.meta["special_ids"]["eod_id"]
    assert config.llm.train_seq_length == original["seq_length"]
    assert config.seq_length == original["max_position_embeddings"]
    assert config.llm.intermediate_size == original["intermediate_size"] // 2


def test_parameters_of_the_published_model_are_counted_without_allocating_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(golden_set("qwen-vl-9.6b").config))
    config = QwenVLConfig.from_pretrained(str(tmp_path))
    with no_init_parameters():
        network = QwenVL(config)
    assert sum(parameter.size for parameter in network.get_parameters()) == PUBLISHED


def test_defaults_are_the_published_sizes():
    with no_init_parameters():
        network = QwenVL(QwenVLConfig())
    assert sum(parameter.size for parameter in network.get_parameters()) == PUBLISHED


def test_dictionary_round_trip(checkpoint_dir):
    config = QwenVLConfig.from_pretrained(str(checkpoint_dir("a56")), freeze_vision=True)
    again = QwenVLConfig(**config.to_dict())
    assert again.to_dict() == config.to_dict()


def test_yaml_section_of_the_old_version():
    config = QwenVLConfig(
        type="QwenVLConfig",
        freeze_vision=True,
        compute_dtype="bfloat16",
        use_past=True,
        is_dynamic=True,
        block_size=32,
        num_blocks=128,
        vision_model={
            "arch": {"type": "QwenVLVisionModel"},
            "model_config": {"type": "QwenVLVisionConfig", "hidden_size": 64, "num_attention_heads": 4},
        },
        llm_model={
            "arch": {"type": "QwenForCausalLM"},
            "model_config": {"type": "QwenConfig", "num_layers": 2, "enable_slice_dp": False, "qkv_concat": False},
        },
    )
    assert str(config.vision.compute_dtype) == str(config.llm.compute_dtype) == "BFloat16"
    assert config.llm.use_past and config.use_past
    assert (config.llm.block_size, config.block_size, config.num_blocks) == (32, 32, 128)
    assert config.vision.hidden_size == 64 and config.vision.intermediate_size == int(64 * 4.9231)


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (lambda: QwenVLVisionConfig(hidden_size=100, num_attention_heads=16), ("100", "16")),
        (lambda: QwenVLVisionConfig(image_size=450), ("image_size=450 must be divisible by 14 (patch_size)",)),
        (
            lambda: QwenVLConfig(proj_output_dim=4000),
            ("output_dim=4000 must be divisible by 128 (the head size of the resampler)",),
        ),
        (lambda: QwenVLVisionConfig(num_queries=200), ("200",)),
        (lambda: QwenVLVisionConfig(dropout=0.1), ("0.1",)),
        (lambda: QwenConfig(num_heads=30), ("30", "128", "4096")),
        (lambda: QwenVLConfig(llm_model=QwenConfig(), proj_output_dim=2048), ("2048", "4096")),
        (lambda: QwenVLConfig(layers_per_stage=[40, 41]), ("[40, 41]", "80")),
    ],
)
def test_sizes_that_do_not_fit_are_named(build, numbers):
    with pytest.raises(ValueError) as error:
        build()
    assert all(number in str(error.value) for number in numbers)


SMALL_PARTS = {"vision_model": {"num_hidden_layers": 2}, "llm_model": {"num_layers": 4}}


@pytest.mark.parametrize(
    ("offsets", "named"),
    [
        ((0, 0), ["stage 1", "stage 0", "layers_per_stage", "[3, 3]"]),
        (([1, 0], 0), ["2 layers on 2 pipeline stages", "[1, 0]"]),
        (([1, -1], 0), None),
        (([-1, 1], [-2, 2]), None),
    ],
)
def test_stages_go_forward_from_the_vision_tower_to_the_language_model(offsets, named):
    parts = {name: {**SMALL_PARTS[name], "offset": offset} for name, offset in zip(SMALL_PARTS, offsets, strict=True)}
    parallel = {"pipeline_stage": 2, "micro_batch_num": 2}
    if named is None:
        QwenVLConfig(**parts, parallel_config=parallel)
        return
    with pytest.raises(ValueError) as error:
        QwenVLConfig(**parts, parallel_config=parallel)
    assert all(words in str(error.value) for words in named)
    QwenVLConfig(**parts, parallel_config=parallel, layers_per_stage=[3, 3])  # an offset is not looked at then


@pytest.mark.parametrize("given", [[90, -10], [80, 0], [40.0, 40.0], [True, 79], ["40", "40"], [40, 41], [80], 40])
def test_every_stage_has_a_whole_number_of_layers(given):
    parallel = {"pipeline_stage": 2, "micro_batch_num": 2}
    with pytest.raises(ValueError) as error:
        QwenVLConfig(parallel_config=parallel, layers_per_stage=given)
    named = (f"layers_per_stage={given!r}", "whole numbers of 1 or more", "pipeline_stage=2", "80 layers")
    assert all(words in str(error.value) for words in named)


@pytest.mark.parametrize(
    ("part", "cards", "named"),
    [
        ({"llm_model": {"num_heads": 32}}, 64, ["num_heads=32"]),
        ({"llm_model": {"vocab_size": 151935}}, 2, ["vocab_size=151935"]),
        ({"llm_model": {"intermediate_size": 11007}}, 2, ["intermediate_size=11007"]),
        ({"vision_model": {"num_attention_heads": 13, "hidden_size": 1664}}, 2, ["num_attention_heads=13"]),
        ({"vision_model": {"intermediate_size": 8193}}, 2, ["intermediate_size=8193"]),
        ({}, 3, ["num_heads=32", "hidden_size=4096", "intermediate_size=11008"]),
    ],
)
def test_what_the_cards_cannot_share_is_named(part, cards, named):
    with pytest.raises(ValueError) as error:
        QwenVLConfig(**part, parallel_config={"model_parallel": cards, "vocab_emb_dp": False})
    assert all(words in str(error.value) for words in (*named, f"model_parallel={cards}"))


def test_a_whole_vocabulary_needs_no_even_number():
    parallel = {"model_parallel": 2, "vocab_emb_dp": True}
    assert QwenConfig(vocab_size=151935, parallel_config=parallel).vocab_size == 151935


@pytest.mark.parametrize("cards", [2, 4, 8, 16])
def test_the_published_sizes_can_be_shared(cards):
    QwenVLConfig(parallel_config={"model_parallel": cards, "vocab_emb_dp": False})


def test_directory_without_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        QwenVLConfig.from_pretrained(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="absent"):
        QwenVLConfig.from_pretrained(str(tmp_path / "absent"))


def test_config_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="visual"):
        QwenVLConfig.from_pretrained(str(tmp_path))
