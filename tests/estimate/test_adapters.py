"""What `estimate` counts of a training with an adapter."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.estimate import estimate, read_job
from mindformers_qwenvl.estimate.weights import weights_of
from mindformers_qwenvl.recipes.section import SettingsError
from mindformers_qwenvl.registration import yaml_dir

PET = "model.model_config.pet_config"
GB = 1024**3


def job(name="finetune_qwenvl_9.6b_lora", *changes):
    return read_job(yaml_dir() / f"{name}.yaml", changes)


def test_the_published_configuration():
    """112,197,632 parameters learn; their optimizer states are two float32 numbers each, and one card of 64 GB does."""
    found = estimate(job())
    assert found.trained == 112_197_632
    assert found.parameters == 9_656_935_168 + 112_197_632
    [card] = found.cards
    assert card.optimizer == 8 * 112_197_632
    assert card.weights == 2 * 9_656_935_168 + 4 * 112_197_632 + _norms_in_float32()
    assert card.total < 64 * GB
    assert card.total < estimate(job("finetune_qwenvl_9.6b_bf16")).cards[0].total + card.weights


def _norms_in_float32() -> int:
    """Norms are kept in layernorm_compute_type: two bytes more for each of their numbers."""
    return sum(2 * weight.size for weight in weights_of(job()) if weight.item == 4 and ".lora_" not in weight.name)


def test_modules_to_save_learn_too():
    found = estimate(job("finetune_qwenvl_9.6b_lora", f"{PET}.modules_to_save=[wte, lm_head]"))
    assert found.trained == 112_197_632 + 2 * 151936 * 4096


def test_other_ranks_and_targets():
    found = estimate(job("finetune_qwenvl_9.6b_lora", f"{PET}.target_modules=[w1]", f"{PET}.lora_rank=8"))
    assert found.trained == 32 * 8 * (4096 + 11008)
    tower = estimate(job("finetune_qwenvl_9.6b_lora", f"{PET}.target_modules=[c_fc]", f"{PET}.lora_rank=8"))
    assert tower.trained == 48 * 8 * (1664 + 8192)
    # Gradients must pass through the language model to the tower.
    assert tower.cards[0].activations > 0


def test_cuts_of_model_parallel():
    """B is cut where the outputs of its layer are, A where the inputs are."""
    changes = ("use_parallel=True", "parallel.parallel_mode=1", "parallel_config.model_parallel=2")
    changes += ("parallel_config.vocab_emb_dp=False", "runner_wrapper.accumulation_steps=1")
    cuts = {}
    for weight in weights_of(job("finetune_qwenvl_9.6b_lora", *changes)):
        if ".layers.0." in weight.name and ".lora_" in weight.name:
            cuts[weight.name.partition(".layers.0.")[2]] = weight.cuts
    assert cuts == {
        "attention.lora_a.weight": 1,
        "attention.wq.lora_b.weight": 2,
        "attention.wk.lora_b.weight": 2,
        "attention.wv.lora_b.weight": 2,
        "attention.wo.lora_a.weight": 2,
        "attention.wo.lora_b.weight": 1,
        "feed_forward.w1.lora_a.weight": 1,
        "feed_forward.w1.lora_b.weight": 2,
        "feed_forward.w3.lora_a.weight": 1,
        "feed_forward.w3.lora_b.weight": 2,
    }


@pytest.mark.parametrize(("change", "named"), [("lora_rank=0", "lora_rank"), ("nothing=1", "nothing")])
def test_wrong_settings_are_named(change, named):
    with pytest.raises(SettingsError, match=named):
        job("finetune_qwenvl_9.6b_lora", f"{PET}.{change}")
