"""The YAMLs of yaml/: every key means something, and the sizes are the published ones."""

from __future__ import annotations

import copy
import inspect
import re

import pytest

from mindformers_qwenvl.recipes import find, has_key
from mindformers_qwenvl.recipes.yaml_file import read_file
from tests.support.golden import golden_set
from tests.support.recipes import (
    ALL,
    BASE,
    FINETUNE,
    LORA,
    OVERLAYS,
    PUBLISHED,
    SMALL_LLM,
    SMALL_VISION,
    WHOLE,
    get,
    read,
    values_of_0_1,
)

VALUES_OF_0_1 = values_of_0_1()
COUNTED = ("finetune_qwenvl_9.6b", "predict_qwenvl_9.6b")  # by default; the others' networks are of the same sizes
TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"
# What the README of the in-tree version tells its users to set.
DOCUMENTED = [
    "load_checkpoint",
    "auto_trans_ckpt",
    "use_parallel",
    "run_mode",
    "train_dataset.data_loader.annotation_file",
    "train_dataset.data_loader.shuffle",
    *(
        f"{TEMPLATE}.{key}"
        for key in (
            "output_columns",
            "mode",
            "dataset_dir",
            "modal_content_padding_size",
            "system_message",
            "user_role_name",
            "assistant_role_name",
            "user_prompt",
            "assistant_prompt",
            "image_size",
        )
    ),
    "train_dataset.modal_to_text_transform.max_length",
    "train_dataset.modal_content_input_columns",
    "train_dataset.modal_content_output_columns",
    "train_dataset.modal_content_transforms",
    "train_dataset.net_input_columns",
    "train_dataset.tokenizer.vocab_file",
]
PARALLEL = [
    f"parallel_config.{key}" for key in ("data_parallel", "model_parallel", "pipeline_stage", "micro_batch_num")
]

pytestmark = pytest.mark.usefixtures("graph_mode")


def test_which_there_are():
    stage_3 = ("", "_bf16", "_16p", "_16p_fp16", "_mp2_dp8", "_mp2_dp8_fp16")
    assert set(ALL) == {
        *(f"{BASE}{end}" for end in (*stage_3, "_stage1", "_stage2")),
        *(f"{BASE}_lora{end}" for end in ("", "_8p")),
        "finetune_qwenvl_tiny",
        "finetune_qwenvl_tiny_lora",
        "predict_qwenvl_9.6b",
        "predict_qwenvl_tiny",
    }


NEW_SINCE_0_1 = ("do_eval", "eval_step_interval", "eval_dataset", "eval_dataset_task")  # validation, off by default


@pytest.mark.parametrize("name", VALUES_OF_0_1)
def test_values_are_those_of_0_1(name):
    """But for what has been added, and for the format of checkpoints, which was ckpt."""
    values = read(name)
    for key in NEW_SINCE_0_1:
        values.pop(key, None)
    for place, key in formats(values):
        assert place[key] == "safetensors"
        place[key] = "ckpt"
    assert values == VALUES_OF_0_1[name]


def formats(values: dict) -> list[tuple[dict, str]]:
    """Where a YAML names the format of what is loaded and of what is saved."""
    saving = [callback for callback in values.get("callbacks") or [] if callback["type"] == "CheckpointMonitor"]
    return [(values, "load_ckpt_format"), *((callback, "checkpoint_format") for callback in saving)]


@pytest.mark.parametrize("name", WHOLE)
def test_every_key_has_a_comment(name):
    """On its line, or in the line above it."""
    lines = find(name).read_text(encoding="utf-8").splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *(- )?\w+:", line) and "#" not in line and not above.lstrip().startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("name", [*OVERLAYS, *LORA])
def test_an_overlay_is_short_and_changes_what_it_names(name):
    text = find(name).read_text(encoding="utf-8")
    assert 10 <= len(text.splitlines()) <= 40
    assert f"/{name}.yaml" in text  # the command in the comment

    def same(changes, base, key=""):
        for part, value in changes.items():
            if isinstance(value, dict):
                yield from same(value, {} if part == "pet_config" else base[part], f"{key}{part}.")
            elif part in base and value == base[part] and value != "":  # "": to be filled in
                yield f"{key}{part}"

    changes = read_file(find(name))
    base = changes.pop("base_config").removesuffix(".yaml")
    others = {f"{BASE}_lora_8p": f"{BASE}_lora", "finetune_qwenvl_tiny_lora": "finetune_qwenvl_tiny"}
    assert base == others.get(name, BASE)
    assert list(same(changes, read(base))) == []


@pytest.mark.parametrize("name", ALL)
def test_old_names_are_not_needed(name):
    text = find(name).read_text(encoding="utf-8")
    kept = "\n".join(line.partition("#")[0] for line in text.splitlines())
    for gone in ("auto_register", "ImageToTextGenerationTrainer", "FP32StateAdamWeightDecay", "ObsMonitor"):
        assert gone not in kept


@pytest.mark.parametrize("name", FINETUNE)
def test_keys_of_the_old_readme(name):
    for key in (*DOCUMENTED, *PARALLEL):
        assert has_key(read(name), key)


@pytest.mark.parametrize("name", FINETUNE)
def test_every_key_of_the_template_and_the_loader_is_an_argument(name):
    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate
    from mindformers_qwenvl.datasets.loader import QwenVLDataLoader

    settings = read(name)
    for section, made in (
        (get(settings, TEMPLATE), QwenVLContentTransformTemplate.__init__),
        (get(settings, "train_dataset.data_loader"), QwenVLDataLoader.__new__),
    ):
        assert section.keys() - {"type"} <= inspect.signature(made).parameters.keys()


@pytest.mark.parametrize("name", ALL)
def test_every_key_of_the_model_is_an_argument(name):
    """Configurations of MindFormers keep any key; one that nothing reads would be a setting without effect."""
    from mindformers_qwenvl import QwenConfig, QwenVLConfig, QwenVLVisionConfig

    model = read(name)["model"]["model_config"]
    for section, config in (
        (model, QwenVLConfig),
        (model["vision_model"]["model_config"], QwenVLVisionConfig),
        (model["llm_model"]["model_config"], QwenConfig),
    ):
        read_by_name = inspect.signature(config.__init__).parameters.keys()
        assert section.keys() - {"type", "pet_config"} <= read_by_name  # pet_config is MindFormers' own
        assert section["type"] == config.__name__


@pytest.mark.parametrize("name", ALL)
def test_data_and_model_agree(name):
    settings = read(name)
    model = settings["model"]["model_config"]
    vision, llm = (model[part]["model_config"] for part in ("vision_model", "llm_model"))
    template = get(settings, TEMPLATE) if name in FINETUNE else settings["processor"]["model_transform_template"]
    assert template["image_size"] == vision["image_size"]
    assert template["num_queries"] == model["num_queries"]
    if name in FINETUNE:
        assert settings["train_dataset"]["modal_to_text_transform"]["max_length"] == llm["seq_length"]
        assert settings["train_dataset"] == settings["train_dataset_task"]["dataset_config"]
    else:
        assert settings["processor"]["image_processor"]["image_size"] == vision["image_size"]
        assert settings["processor"]["max_length"] <= llm["seq_length"]
        assert llm["max_decode_length"] <= llm["seq_length"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in COUNTED else pytest.mark.slow) for name in PUBLISHED],
)
def test_published_parameter_count(name):
    """Counted without allocating the parameters, and without the key/value cache of prediction."""
    from mindformers import MindFormerConfig
    from mindformers.models import build_network
    from mindspore.nn.utils import no_init_parameters

    config = MindFormerConfig(str(find(name)))
    config.model.model_config.use_past = False
    with no_init_parameters():
        network = build_network(config.model)
    assert sum(parameter.size for parameter in network.get_parameters()) == 9_656_935_168


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_those_of_the_original(name, tmp_path):
    import json

    from mindformers_qwenvl import QwenVLConfig

    (tmp_path / "config.json").write_text(json.dumps(golden_set("qwen-vl-9.6b").config))
    original = QwenVLConfig.from_pretrained(str(tmp_path))
    ours = QwenVLConfig(**read(name)["model"]["model_config"])
    sizes = {
        "vision": "hidden_size intermediate_size num_hidden_layers num_attention_heads image_size patch_size "
        "output_dim num_queries layer_norm_eps",
        "llm": "train_seq_length hidden_size num_layers num_heads kv_channels intermediate_size vocab_size "
        "rms_norm_eps rotary_emb_base rotary_pct use_dynamic_ntk use_logn_attn eos_token_id pad_token_id",
    }
    for part, names in sizes.items():
        for key in names.split():
            assert getattr(getattr(ours, part), key) == getattr(getattr(original, part), key), key
    assert ours.image_start_id == original.image_start_id
    assert ours.image_pad_id == original.image_pad_id


@pytest.mark.parametrize("name", [name for name in ALL if name not in LORA])
def test_it_builds_at_a_small_size(name):
    """The section as it stands, with smaller numbers: which parameters learn is what the YAML says."""
    from mindformers import MindFormerConfig
    from mindformers.models import build_network

    config = MindFormerConfig(str(find(name)))
    model = copy.deepcopy(config.model)
    model.model_config.num_queries = 16
    model.model_config.num_blocks = 8
    model.model_config.vision_model.model_config.update(SMALL_VISION)
    model.model_config.llm_model.model_config.update(SMALL_LLM)
    network = build_network(model)
    frozen = {parameter.name for parameter in network.get_parameters() if not parameter.requires_grad}
    tower = {
        parameter.name
        for parameter in network.vision_encoder.get_parameters()
        if ".attn_pool." not in f".{parameter.name}"
    }
    if name in PUBLISHED:
        learnt = {parameter.name for parameter in network.trainable_params()}
        assert {name for name in frozen if ".attn_pool.query" in name} == set()
        assert any(name.startswith("llm_model.") for name in learnt)
        assert any(".attn_pool.attn.wq" in name for name in learnt)
        # ln_post and proj stand behind the resampler but belong to the tower, as in the original's --fix_vit.
        assert tower & learnt == set()
    else:
        assert not tower & frozen
        assert (name == "finetune_qwenvl_9.6b_stage1") == any(name.endswith("lm_head.weight") for name in frozen)
    assert any(name.endswith("attn_pool.pos_embed") for name in frozen)


def test_the_bf16_recipe_differs_in_precision_alone():
    """compute_dtype, loss scale and prefix."""
    half, brain = read("finetune_qwenvl_9.6b"), read("finetune_qwenvl_9.6b_bf16")
    assert (half["model"]["model_config"]["compute_dtype"], brain["model"]["model_config"]["compute_dtype"]) == (
        "float16",
        "bfloat16",
    )
    for settings in (half, brain):
        settings["model"]["model_config"].pop("compute_dtype")
        settings["runner_wrapper"]["scale_sense"].pop("loss_scale_value")
        settings["callbacks"][-1].pop("prefix")
    assert half == brain


@pytest.mark.parametrize("name", [name for name in FINETUNE if name in PUBLISHED])
def test_the_published_recipe(name):
    settings = read(name)
    model, parallel = settings["model"]["model_config"], settings["parallel_config"]
    assert parallel["data_parallel"] * parallel["model_parallel"] * parallel["pipeline_stage"] in (8, 16)
    assert get(settings, "train_dataset.modal_to_text_transform.max_length") == 2048
    assert (model["freeze_vision"], model["freeze_resampler"], model["freeze_llm"]) == (True, False, False)
    assert model["llm_model"]["model_config"]["use_flash_attention"] is True
