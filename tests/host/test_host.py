"""The work-arounds of host/ in use; test_faults.py shows what they are for."""

from __future__ import annotations

import pytest

from tests.support.golden import golden_set


@pytest.fixture(scope="module")
def registered():
    """This process's MindFormers with the plugin, whether or not it is installed here."""
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl.registration import register

    register()
    return MindFormerRegister


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("models", "qwenvl_model.QwenVL"),
        ("models", "qwen_model.QwenForCausalLM"),
        ("config", "qwenvl_config.QwenVLVisionConfig"),
        ("tokenizer", "qwenvl_tokenizer.QwenVLTokenizer"),
        ("processor", "qwenvl_processor.QwenVLProcessor"),
        ("transforms", "qwenvl_processor.QwenVLContentTransformTemplate"),
    ],
)
def test_auto_register_of_ours(registered, monkeypatch, kind, reference):
    monkeypatch.delenv("REGISTER_PATH", raising=False)
    name = reference.rpartition(".")[2]
    before = registered.get_cls(kind, name)
    registered.auto_register(reference, kind)
    assert registered.get_cls(kind, name) is before


def test_auto_register_key_in_a_yaml_section(registered, monkeypatch):
    monkeypatch.delenv("REGISTER_PATH", raising=False)
    section = {"type": "QwenVLImageProcessor", "auto_register": "qwenvl_processor.QwenVLImageProcessor"}
    built = registered.get_instance_from_cfg({**section, "image_size": 56}, "processor")
    assert type(built) is registered.get_cls("processor", "QwenVLImageProcessor")


OLD_YAML = """
model:
  model_config:
    type: QwenVLConfig
    auto_register: qwenvl_config.QwenVLConfig
    freeze_vision: True
    compute_dtype: "float32"
    param_init_type: "float32"
    num_queries: 16
    vision_model:
      arch:
        type: QwenVLVisionModel
        auto_register: qwenvl_model.QwenVLVisionModel
      model_config:
        type: QwenVLVisionConfig
        auto_register: qwenvl_config.QwenVLVisionConfig
        hidden_size: 64
        num_hidden_layers: 1
        num_attention_heads: 4
        image_size: 56
    llm_model:
      arch:
        type: QwenForCausalLM
        auto_register: qwen_model.QwenForCausalLM
      model_config:
        type: QwenConfig
        auto_register: qwenvl_config.QwenConfig
        seq_length: 64
        hidden_size: 256
        num_layers: 1
        num_heads: 2
        vocab_size: 1024
        intermediate_size: 352
  arch:
    type: QwenVL
    auto_register: qwenvl_model.QwenVL
processor:
  type: QwenVLProcessor
  auto_register: qwenvl_processor.QwenVLProcessor
  image_processor:
    type: QwenVLImageProcessor
    auto_register: qwenvl_processor.QwenVLImageProcessor
    image_size: 56
  tokenizer:
    type: QwenVLTokenizer
    auto_register: qwenvl_tokenizer.QwenVLTokenizer
    max_length: 32
  max_length: 64
template:
  type: QwenVLContentTransformTemplate
  auto_register: qwenvl_processor.QwenVLContentTransformTemplate
  mode: "train"
  image_size: 56
"""


def test_sections_of_an_old_yaml_as_they_stand(registered, monkeypatch, tmp_path):
    from mindformers import MindFormerConfig
    from mindformers.dataset.transforms import build_transforms
    from mindformers.models import build_network, build_processor

    monkeypatch.delenv("REGISTER_PATH", raising=False)
    (tmp_path / "old.yaml").write_text(OLD_YAML)
    config = MindFormerConfig(str(tmp_path / "old.yaml"))
    config.processor.tokenizer.vocab_file = str(golden_set("a56").vocab_file)
    network = build_network(config.model)
    assert type(network).__name__ == "QwenVL"
    assert not any(p.requires_grad for p in network.get_parameters() if ".resblocks." in p.name)
    processor = build_processor(config.processor)
    assert (type(processor).__name__, type(processor.tokenizer).__name__) == ("QwenVLProcessor", "QwenVLTokenizer")
    template = build_transforms(config.template, default_args={"tokenizer": processor.tokenizer, "max_length": 64})
    assert type(template).__name__ == "QwenVLContentTransformTemplate"


def test_auto_register_of_others_is_the_hosts(registered, monkeypatch):
    monkeypatch.delenv("REGISTER_PATH", raising=False)
    with pytest.raises(OSError, match="REGISTER_PATH"):
        registered.auto_register("their_file.TheirModel", "models")


def test_auto_register_prefers_a_file_of_the_user(registered, monkeypatch, tmp_path):
    (tmp_path / "qwenvl_tokenizer.py").write_text("class QwenVLTokenizer:\n    of_the_user = True\n")
    monkeypatch.setenv("REGISTER_PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    ours = registered.get_cls("tokenizer", "QwenVLTokenizer")
    try:
        registered.auto_register("qwenvl_tokenizer.QwenVLTokenizer", "tokenizer")
        assert registered.get_cls("tokenizer", "QwenVLTokenizer").of_the_user
    finally:
        registered.register_cls(ours, "tokenizer")


def test_config_by_name(registered, tmp_path, monkeypatch):
    from mindformers import AutoConfig

    config = AutoConfig.from_pretrained("qwenvl_9.6b")
    assert type(config).__name__ == "QwenVLConfig"
    assert (config.vision.hidden_size, config.llm.num_layers) == (1664, 32)
    with pytest.raises(ValueError, match="is not a supported model type"):
        AutoConfig.from_pretrained("glm4_9b")


def test_prediction_takes_the_yaml_as_it_stands(registered, monkeypatch):
    from mindformers import MindFormerConfig

    class Processor:
        tokenizer = "a tokenizer"

    monkeypatch.setenv("RUN_MODE", "predict")
    for name in ("MultiModalToTextGenerationTrainer", "ImageToTextGenerationTrainer"):
        trainer = registered.get_instance("trainer", name, model_name="qwenvl")
        trainer.predict_process = lambda config, **kwargs: config
        config = MindFormerConfig(run_mode="predict", parallel_config={}, moe_config={}, recompute_config={})
        assert trainer.predict(config, [""], processor=Processor()) is config
        assert "layer_decay" not in config


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [({}, None, 7), ({"top_k": 4}, None, 4), ({"top_k": 4}, 3, 3), ({"model": None}, None, 0)],
)
def test_prediction_hands_on_the_top_k_of_the_yaml(registered, monkeypatch, config, given, expected):
    from mindformers import MindFormerConfig

    class Processor:
        tokenizer = "a tokenizer"

    monkeypatch.setenv("RUN_MODE", "predict")
    trainer = registered.get_instance("trainer", "MultiModalToTextGenerationTrainer", model_name="qwenvl")
    trainer.predict_process = lambda config, **kwargs: kwargs["top_k"]
    model = {"model_config": {"llm_model": {"model_config": {"top_k": 7}}}}
    sections = {"run_mode": "predict", "parallel_config": {}, "moe_config": {}, "recompute_config": {}, "model": model}
    found = trainer.predict(MindFormerConfig(**{**sections, **config}), [""], processor=Processor(), top_k=given)
    assert found == expected


def test_names_of_old_yamls_say_what_takes_their_place(registered, caplog, monkeypatch):
    from mindformers.core import build_optim
    from mindformers.core.callback.build_callback import build_callback
    from mindformers.tools.logger import get_logger
    from mindspore import Parameter, Tensor
    from mindspore import dtype as mstype

    # The host's own handler keeps the stdout of whoever logged first, which need not be this test's.
    monkeypatch.setattr(get_logger(), "handlers", [caplog.handler])
    weights = [Parameter(Tensor([1.0], mstype.float16), name="weight")]
    section = {"type": "FP32StateAdamWeightDecay", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    optimizer = build_optim(section, default_args={"params": weights, "learning_rate": 1e-3})
    assert optimizer.exp_avg[0].dtype == optimizer.exp_avg_sq[0].dtype == mstype.float32
    assert [round(float(optimizer.beta1), 3), round(float(optimizer.beta2), 3)] == [0.9, 0.95]
    (monitor,) = build_callback([{"type": "ObsMonitor", "upload_frequence": 1}])
    monitor.step_end(None)
    log = caplog.text
    assert "FP32StateAdamWeightDecay was removed from MindFormers in 1.6; AdamW with betas: [0.9, 0.95]" in log
    assert "ObsMonitor was removed" in log


def test_save_parameters(registered, tmp_path):
    import mindspore as ms
    from mindformers import PretrainedConfig, PreTrainedModel

    from mindformers_qwenvl.host.network import SaveParameters

    class Network(SaveParameters, PreTrainedModel):
        def __init__(self):
            super().__init__(PretrainedConfig())
            self.dense = ms.nn.Dense(2, 2)

    network = Network()
    network.save_pretrained("saved", save_json=True)
    saved = ms.load_checkpoint("saved/mindspore_model.ckpt")
    assert set(saved) == {"dense.weight", "dense.bias"}
    assert (saved["dense.weight"].asnumpy() == network.dense.weight.asnumpy()).all()
    assert (tmp_path / "saved" / "config.json").is_file()


def test_accumulation_that_the_host_would_drop_is_an_error(registered):
    from mindformers import MindFormerConfig

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    for steps in (4, 1, None):
        runner = {"gradient_accumulation_steps": steps, "batch_size": 2}
        model = {"model_config": {}}
        trainer.config = MindFormerConfig(runner_config=runner, model=model, parallel_config={})
        if steps == 4:
            with pytest.raises(ValueError, match=r"runner_wrapper\.accumulation_steps=4"):
                trainer._check_grad_accumulation_steps()
        else:
            trainer._check_grad_accumulation_steps()
            assert trainer.config.runner_config.gradient_accumulation_steps == 1


@pytest.mark.parametrize("mode", ["semi_auto_parallel", "auto_parallel"])
def test_accumulation_of_ours_where_the_host_takes_its_own_wrapper_is_an_error(registered, mode):
    import mindspore as ms
    from mindformers import MindFormerConfig

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    sections = {"runner_config": {"gradient_accumulation_steps": 2}, "model": {"model_config": {}}}
    trainer.config = MindFormerConfig(**sections, parallel_config={}, runner_wrapper={"accumulation_steps": 4})
    before = ms.get_auto_parallel_context("parallel_mode")
    ms.set_auto_parallel_context(parallel_mode=mode)
    try:
        with pytest.raises(ValueError, match="accumulation_steps=4 is for one card"):
            trainer._check_grad_accumulation_steps()
        trainer.config.runner_wrapper.accumulation_steps = 1
        trainer._check_grad_accumulation_steps()
        assert trainer.config.runner_config.gradient_accumulation_steps == 2
    finally:
        ms.set_auto_parallel_context(parallel_mode=before)


def test_accumulation_of_ours_must_divide_the_batch(registered):
    from mindformers import MindFormerConfig

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    sections = {"runner_config": {"batch_size": 4}, "model": {"model_config": {}}, "parallel_config": {}}
    trainer.config = MindFormerConfig(**sections, runner_wrapper={"accumulation_steps": 3})
    with pytest.raises(ValueError, match=r"accumulation_steps=3 must divide runner_config\.batch_size=4"):
        trainer._check_grad_accumulation_steps()
    for steps in (4, 1, None):
        trainer.config.runner_wrapper.accumulation_steps = steps
        trainer._check_grad_accumulation_steps()


def test_a_dataset_without_a_batch_is_an_error(registered):
    import numpy as np
    from mindformers import MindFormerConfig
    from mindspore.dataset import NumpySlicesDataset

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    trainer.config = MindFormerConfig(runner_config={"batch_size": 4})
    three, four = (NumpySlicesDataset(np.zeros((3, 2))).batch(rows, drop_remainder=True) for rows in (3, 4))
    with pytest.raises(ValueError, match=r"not fill one batch: there are fewer than runner_config\.batch_size=4.*Set"):
        trainer.set_train_dataset(four)
    trainer.set_train_dataset(three)
    assert trainer.get_train_data_size() == 1


def test_a_network_that_does_not_learn_is_an_error(registered):
    from mindformers import MindFormerConfig
    from mindspore import nn

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    network = nn.Dense(2, 2)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    trainer.config = MindFormerConfig(runner_config={"initial_epoch": 0, "epochs": 2})
    with pytest.raises(ValueError, match=r"nothing would be trained; set one of freeze_vision.* to False"):
        trainer.create_optimizer_scheduler(network, set())


def test_a_complete_training_is_not_resumed(registered):
    """test_run.py has it from the command's side."""
    from mindformers import MindFormerConfig

    trainer = registered.get_cls("trainer", "MultiModalToTextGenerationTrainer")("qwenvl")
    # As the host hands it on where `sink_mode` has made 12 of 2 epochs.
    trainer.config = MindFormerConfig(runner_config={"initial_epoch": 12, "epochs": 12, "origin_epochs": 2})
    with pytest.raises(ValueError, match=r"resume_training: .* the end of runner_config\.epochs=2, .* set more epochs"):
        trainer.create_optimizer_scheduler(None, set())
