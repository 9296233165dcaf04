"""The arithmetic counts against networks that are really built, and against the published sizes."""

from __future__ import annotations

import pytest
import yaml

from mindformers_qwenvl.estimate import estimate, read_job
from mindformers_qwenvl.estimate.weights import weights_of
from mindformers_qwenvl.registration import yaml_dir

TINY = yaml_dir() / "finetune_qwenvl_tiny.yaml"
TOTAL = 9_656_935_168
TRAINED = {
    "finetune_qwenvl_9.6b": 7_796_330_496,
    "finetune_qwenvl_9.6b_bf16": 7_796_330_496,
    "finetune_qwenvl_9.6b_16p": 7_796_330_496,
    "finetune_qwenvl_9.6b_stage1": 1_934_562_048,
    "finetune_qwenvl_9.6b_stage2": TOTAL - 256 * 4096,
    "predict_qwenvl_9.6b": 0,
}


@pytest.mark.parametrize("name", TRAINED)
def test_full_size(name):
    found = estimate(read_job(yaml_dir() / f"{name}.yaml"))
    assert (found.parameters, found.trained) == (TOTAL, TRAINED[name])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze_vision": True},
        {"freeze_llm": True, "param_init_type": "float16"},
        {"freeze_resampler": True, "freeze_vision": True, "compute_dtype": "float16"},
    ],
    ids=str,
)
def test_a_network_that_is_built(changes):
    """Each parameter: its name, shape, type, and whether it learns."""
    import mindspore as ms
    from mindformers import MindFormerConfig
    from mindformers.models import build_network

    from mindformers_qwenvl.registration import register

    register()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    model = MindFormerConfig(str(TINY)).model
    model.model_config.update(changes)
    network = build_network(model)
    built = {
        parameter.name: (tuple(parameter.shape), parameter.itemsize, parameter.requires_grad)
        for parameter in network.get_parameters()
    }
    job = read_job(TINY, [f"model.model_config.{key}={value}" for key, value in changes.items()])
    counted = {weight.name: (weight.shape, weight.item, weight.learns) for weight in weights_of(job)}
    assert counted == built
    found = estimate(job)
    assert found.parameters == sum(parameter.size for parameter in network.get_parameters())
    assert found.trained == sum(parameter.size for parameter in network.trainable_params())
    (card,) = found.cards
    assert card.weights == sum(parameter.nbytes for parameter in network.get_parameters())
    assert card.optimizer == 8 * found.trained
    assert card.gradients == sum(parameter.nbytes for parameter in network.trainable_params())


def test_every_number_is_somewhere():
    """The cards together hold each matrix of a layer once."""
    job = read_job(yaml_dir() / "finetune_qwenvl_9.6b_stage2.yaml")
    for weight in weights_of(job):
        assert weight.held * weight.cuts * weight.shares == weight.size
        assert weight.shares in (1, 8, 16)
        if weight.place.layer is not None and len(weight.shape) == 2:
            assert (weight.cuts, weight.shares) == (2, 8)


def test_yaml_spellings_of_the_original(tmp_path):
    settings = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    llm = settings["model"]["model_config"]["llm_model"]["model_config"]
    llm["num_hidden_layers"], llm["num_attention_heads"] = llm.pop("num_layers"), llm.pop("num_heads")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(settings))
    assert estimate(read_job(tmp_path / "other.yaml")).parameters == estimate(read_job(TINY)).parameters
