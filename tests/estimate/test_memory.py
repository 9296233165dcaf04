"""What the parallel settings do to a card's memory, and terms that can be counted by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from mindformers_qwenvl.estimate import activations, estimate, read_job
from mindformers_qwenvl.estimate.units import GB
from mindformers_qwenvl.recipes import RecipeError, yaml_dir
from mindformers_qwenvl.recipes.section import SettingsError

STAGE_2, STAGE_3 = (yaml_dir() / f"finetune_qwenvl_9.6b{end}.yaml" for end in ("_stage2", ""))
ALONE = ["use_parallel=False"]


def cards(path, *changes):
    return estimate(read_job(path, changes)).cards


def test_one_card_holds_all():
    """Stage 3 in float32: weights 4 bytes, moments 8, gradients 4; nothing learns in the tower."""
    (card,) = cards(STAGE_3, *ALONE)
    assert card.weights == 4 * 9_656_935_168
    assert card.optimizer == 8 * 7_796_330_496
    assert card.gradients == 4 * 7_796_330_496
    assert card.accumulated == card.cache == 0


def test_param_init_type_halves_weights_and_gradients_not_the_moments():
    (whole,), (half,) = cards(STAGE_3), cards(STAGE_3, "model.model_config.param_init_type=float16")
    assert half.weights == pytest.approx(whole.weights / 2, rel=1e-3)  # norms stay float32
    assert half.gradients == pytest.approx(whole.gradients / 2, rel=1e-3)
    assert half.optimizer == whole.optimizer


def test_optimizer_parallel_shares_weights_and_moments_over_data_parallel():
    eight, sixteen = (cards(STAGE_3, f"parallel_config.data_parallel={number}")[0] for number in (8, 16))
    (whole,) = cards(STAGE_3, "parallel.enable_parallel_optimizer=False")
    for name in ("weights", "optimizer", "gradients"):
        assert getattr(eight, name) == pytest.approx(getattr(whole, name) / 8, rel=1e-2)
        assert getattr(sixteen, name) == pytest.approx(getattr(whole, name) / 16, rel=2e-2)


def test_data_parallel_mode_ignores_parallel_config():
    (card,) = cards(STAGE_3, "parallel.parallel_mode=0")
    assert card.weights == 4 * 9_656_935_168


def test_model_parallel_shares_matrices_and_logits_not_the_stream():
    two, four = (cards(STAGE_2, f"parallel_config.model_parallel={number}")[0] for number in (2, 4))
    assert four.weights == pytest.approx(two.weights / 2, rel=1e-2)
    assert four.moments["loss"] < two.moments["loss"] / 1.8
    (spread,) = cards(STAGE_2, "parallel_config.vocab_emb_dp=True")
    assert spread.weights == two.weights  # 16 cards share the table, by 8 x 2 or at once
    assert spread.moments["loss"] > 1.8 * two.moments["loss"] - GB  # logits are whole


@pytest.mark.parametrize("recompute", [True, False])
def test_frozen_parts_keep_less(recompute):
    parts = {
        frozen: cards(STAGE_2, f"model.model_config.{frozen}=True", f"recompute_config.recompute={recompute}")[0]
        for frozen in ("freeze_vision", "freeze_llm")
    }
    (all_learn,) = cards(STAGE_2, f"recompute_config.recompute={recompute}")
    for card in parts.values():
        assert card.optimizer < all_learn.optimizer and card.activations < all_learn.activations
        assert card.weights == all_learn.weights
    # Nothing passes backward through a frozen tower; through a frozen language model all does.
    assert parts["freeze_vision"].optimizer > parts["freeze_llm"].optimizer


def test_recompute_keeps_the_inputs_of_the_layers():
    on = ["recompute_config.recompute=True", "recompute_config.recompute_slice_activation=False"]
    job = read_job(STAGE_3, on)
    stream = 4 * 2048 * 4096 * 2  # rows, tokens, width, float16
    assert activations.language_layer(job).boundary == stream
    (whole,), (again,) = cards(STAGE_3, "recompute_config.recompute=False"), cards(STAGE_3, *on)
    layer = activations.language_layer(job)
    assert whole.activations - again.activations == 32 * (layer.kept - stream)
    (half,) = cards(STAGE_3, "recompute_config.recompute=[16]")
    assert whole.activations - half.activations == 16 * (layer.kept - stream)
    (chosen,) = cards(STAGE_3, "recompute_config.recompute=False", "recompute_config.select_recompute=True")
    # The gate's product and the input of w2, float16.
    assert whole.activations - chosen.activations == 32 * 2 * 2 * 4 * 2048 * 11008


def test_a_language_layer_by_hand():
    """Korthikanti et al., with flash attention: bytes of each of rows x tokens x 4096 in float16."""
    job = read_job(STAGE_3)
    positions = 4 * 2048
    norms = 2 * (4 * 4096 + 4)  # read as float32; 1 / rms
    inputs_ = 2 * 2 * 4096 + 2 * 4096  # q, k, v and MLP; wo
    attention = 4 * 2 * 4096 + 64 * 32  # q, k, v, the result; two rows of 8 float32 a head
    mlp = 5 * 2 * 11008
    assert activations.language_layer(job).kept == positions * (norms + inputs_ + attention + mlp)


@pytest.mark.parametrize(("pixels", "patches"), [(448, 1024), (224, 256)])
def test_a_block_of_the_tower_by_hand(pixels, patches):
    size = f"model.model_config.vision_model.model_config.image_size={pixels}"
    job = read_job(STAGE_2, ["parallel_config.model_parallel=1", size])
    width, middle, heads = 1664, 8192, 16
    norms, inputs_ = 2 * 4 * width, 3 * 2 * width
    attention = 3 * 2 * width + (4 + 2) * heads * patches  # the softmax in float32, and as bfloat16
    mlp = 3 * 4 * middle + 2 * middle
    assert activations.vision_layer(job).kept == 4 * patches * (norms + inputs_ + attention + mlp)


def test_plain_attention_keeps_scores():
    flash, plain = (
        activations.language_layer(
            read_job(STAGE_3, [f"model.model_config.llm_model.model_config.use_flash_attention={on}"])
        )
        for on in (True, False)
    )
    scores = 4 * 32 * 2048**2
    assert plain.kept - flash.kept == 6 * scores - 4 * 2048 * (2 * 4096 + 64 * 32)


def test_logits_are_float32():
    _, loss = activations.head_and_loss(read_job(STAGE_3))
    assert loss == 4 * 4 * (4 * 2048 * 151936)


def test_pipeline_stages():
    changes = [
        *("parallel_config.data_parallel=4", "parallel_config.model_parallel=1", "parallel_config.pipeline_stage=2"),
        *("parallel_config.micro_batch_num=4", "model.model_config.layers_per_stage=[50, 30]"),
    ]
    first, second = cards(STAGE_2, *changes)
    (alone,) = cards(STAGE_2, "parallel_config.data_parallel=4", "parallel_config.model_parallel=1")
    assert first.weights + second.weights == alone.weights
    assert first.optimizer + second.optimizer == alone.optimizer
    assert second.weights > first.weights  # 30 of the language model's layers
    assert "loss" in second.moments and "loss" not in first.moments
    assert first.accumulated > 0
    shared = cards(STAGE_2, *changes, "parallel.parallel_optimizer_config.gradient_accumulation_shard=True")
    assert shared[0].accumulated == pytest.approx(first.accumulated / 4, rel=2e-2)
    # The first stage is two micro batches ahead, however many there are.
    more = cards(STAGE_2, *changes[:3], "parallel_config.micro_batch_num=8", changes[-1])
    assert more[0].activations - first.activations < GB // 2
    # The same stages by offsets.
    offset = "model.model_config.vision_model.model_config.offset=[24, -24]"
    listed = "model.model_config.layers_per_stage=[64, 16]"
    assert cards(STAGE_2, *changes[:-1], offset) == cards(STAGE_2, *changes[:-1], listed)


def test_stages_that_would_go_backward():
    with pytest.raises(SettingsError, match=r"layers_per_stage.* \[40, 40\]"):
        cards(STAGE_2, "parallel_config.pipeline_stage=2", "parallel_config.micro_batch_num=2")


@pytest.mark.parametrize("given", ["[true, 79]", "[80, 0]", "[90, -10]", "[40.0, 40.0]", "['40', '40']", "40"])
def test_every_stage_has_a_whole_number_of_layers(given):
    stages = ["parallel_config.pipeline_stage=2", "parallel_config.micro_batch_num=2"]
    with pytest.raises(SettingsError, match=r"whole numbers of 1 or more.*pipeline_stage=2"):
        cards(STAGE_2, *stages, f"model.model_config.layers_per_stage={given}")


def test_accumulation_steps_compute_fewer_rows_at_once():
    (whole,), (parts,) = cards(STAGE_3, *ALONE), cards(STAGE_3, *ALONE, "runner_wrapper.accumulation_steps=4")
    assert parts.moments["loss"] < whole.moments["loss"] / 3
    assert parts.accumulated == parts.gradients


def test_interleaved_parts_of_a_batch_add_rows_in_semi_auto_parallel_alone():
    """MindFormers multiplies batch_size there; elsewhere it cuts the batch it is given."""
    two = "micro_batch_interleave_num=2"
    assert read_job(STAGE_2, [two]).rows == 2 * read_job(STAGE_2).rows
    for mode in (ALONE[0], "parallel.parallel_mode=0"):
        assert read_job(STAGE_2, [mode, two]).rows == read_job(STAGE_2).rows


def test_optimizer_states_in_the_memory_of_the_host():
    assert cards(STAGE_3, "optimizer.swap=True")[0].optimizer == 0


def test_prediction_has_weights_and_cache():
    (card,) = cards(yaml_dir() / "predict_qwenvl_9.6b.yaml")
    assert card.weights == pytest.approx(2 * 9_656_935_168, rel=1e-3)  # norms are float32
    assert card.cache == 2 * 2 * 512 * 16 * 4096 * 32
    assert card.optimizer == card.gradients == 0
    (half,) = cards(yaml_dir() / "predict_qwenvl_9.6b.yaml", "use_parallel=True", "parallel_config.model_parallel=2")
    assert half.cache == card.cache // 2 and half.weights == pytest.approx(card.weights / 2, rel=1e-2)


def test_the_recipes_fit_the_cards_they_name():
    """64 GB, of which their max_device_memory is 57."""
    for path in yaml_dir().glob("*9.6b*.yaml"):
        job = read_job(path)
        assert estimate(job).total < job.device_memory < 64 * GB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("parallel_config.data_parallel=eight", "data_parallel: a whole number of 1 or more is expected, got 'eight'"),
        ("parallel_config.model_parallel=3", "model_parallel=3 cards cannot share"),
        ("parallel_config.context_parallel=2", "context_parallel: 1"),
        ("parallel_config.pipeline_stage=2", "micro_batch_num=1 must be at least pipeline_stage=2"),
        ("model.model_config.layers_per_stage=[40, 40]", "model_config: layers_per_stage=[40, 40] must be a list"),
        ("model.model_config.layers_per_stage=80", "layers_per_stage=80 must be a list"),
        ("model.model_config.layers_per_stage=[79]", "add up to 80 layers"),
        ("model.model_config.vision_model.model_config.offset=1", "48 layers on 1 pipeline stages"),
        ("model.model_config.compute_dtype=float8", "one of float32, float16, bfloat16 is expected, got 'float8'"),
        ("model.model_config.type=LlamaConfig", "QwenVLConfig is expected, got 'LlamaConfig'"),
        ("model.model_config.freeze_llm=yes please", "True or False is expected"),
        ("model.model_config.llm_model=7", "llm_model: a section with keys is expected, got 7"),
        ("model=", "model: a section with keys is expected, there is none"),
        ("optimizer.type=Lion", "one of AdamW, QwenVLAdamW, FP32StateAdamWeightDecay is expected, got 'Lion'"),
        ("run_mode=dance", "one of train, finetune, predict"),
        ("runner_config.batch_size=", "runner_config.batch_size: a whole number"),
        ("context.max_device_memory=much", "max_device_memory must be a size such as 500MB or 64GB, got 'much'"),
        ("recompute_config.recompute=[1, 2]", "a list of 1 numbers"),
        ("runner_wrapper.accumulation_steps=2", "accumulation_steps=2 is for one card and data parallel"),
        ("model.model_config.num_queries=255", "num_queries=255 must be a square number"),
        ("model.model_config.proj_output_dim=4000", "output_dim=4000 must be divisible by 128"),
        ("model.model_config.proj_output_dim=2048", "output_dim=2048 (proj_output_dim) must equal the"),
        ("optimizer.vision_lr_decay=7", ".yaml: optimizer: vision_lr_decay must be a number above 0 and at most 1"),
        ("optimizer.vision_lr_decay=", "vision_lr_decay must be a number above 0 and at most 1, got None"),
        ("seed.of=1", "--set seed.of=1: seed is not a section"),
        ("a.b.c=5", "--set a.b.c=5: a.b.c is neither a key of"),
        ("runner_config.nonsense=1", "runner_config.nonsense is neither"),
        ("model.model_config.vision_model.model_config.num_queries=64", "num_queries is neither a key of"),
        ("nothing", "KEY=VALUE is expected"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(change, words):
    with pytest.raises(RecipeError) as raised:
        estimate(read_job(STAGE_3, [change]))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        "recompute_config.recompute=[8]",
        "recompute_config.select_recompute=True",
        "parallel.parallel_optimizer_config.gradient_accumulation_shard=True",
        "parallel_config.micro_batch_num=2",
        "micro_batch_interleave_num=1",
        "optimizer.vision_lr_decay=0.9",
        "context.max_device_memory=30GB",
        "model.model_config.llm_model.model_config.num_hidden_layers=32",
    ],
)
def test_a_change_may_add_what_the_estimate_depends_on(change, tmp_path):
    settings = yaml.safe_load(STAGE_3.read_text(encoding="utf-8"))
    for section in ("recompute_config", "micro_batch_interleave_num"):
        del settings[section]
    settings["parallel"] = {"parallel_mode": 1}
    settings["context"] = None
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(settings))
    for more in ([], ALONE):
        assert read_job(tmp_path / "short.yaml", [change, *more])


def test_the_originals_names_can_be_changed():
    half = read_job(STAGE_3, ["model.model_config.llm_model.model_config.num_hidden_layers=16"])
    assert half.llm.num_layers == 16


@pytest.mark.parametrize(
    "changes",
    [
        ALONE,
        ["parallel.parallel_mode=0"],
        ["parallel_config.pipeline_stage=2", "parallel_config.micro_batch_num=2"],
    ],
)
def test_accumulation_that_training_refuses(changes):
    steps = "runner_config.gradient_accumulation_steps=4"
    with pytest.raises(SettingsError, match=r"gradient_accumulation_steps=4 is for semi_auto_parallel without"):
        read_job(STAGE_3, [*changes, steps])
    assert read_job(STAGE_3, [steps]).accumulation == 4


def test_accumulation_steps_must_divide_the_batch():
    with pytest.raises(SettingsError, match=r"accumulation_steps=3 must divide runner_config.batch_size=4"):
        read_job(STAGE_3, [*ALONE, "runner_wrapper.accumulation_steps=3"])


def test_nothing_learns():
    frozen = [f"model.model_config.freeze_{part}=True" for part in ("vision", "resampler", "llm")]
    with pytest.raises(SettingsError, match="nothing is trained"):
        read_job(STAGE_3, frozen)


def test_neither_mindspore_nor_mindformers_is_imported():
    code = (
        "import sys; from mindformers_qwenvl.cli import main; "
        "assert main(['estimate', '--yaml', 'finetune_qwenvl_9.6b', '--device-memory', '64GB']) == 0; "
        "assert not {'mindspore', 'mindformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
