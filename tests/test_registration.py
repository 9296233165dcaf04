"""What MindFormers knows after `register()`, seen through its own doors."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from mindformers_qwenvl import host, registration
from mindformers_qwenvl.registration import CONFIGS, ESSENTIALS, FAMILY, MODELS, NAME, OTHERS, TASK
from tests.support.replaced import replaced_in_host


@pytest.fixture(scope="module")
def registered():
    registration.register()
    from mindformers import MindFormerRegister

    return MindFormerRegister


@pytest.fixture
def use_legacy(monkeypatch):
    """Set the YAML key `use_legacy` for a test."""
    from mindformers.tools.register import register

    return lambda value: monkeypatch.setattr(register, "is_legacy_model", lambda: value)


@pytest.mark.parametrize("legacy", [True, False])
def test_every_class_is_found_by_its_name(registered, use_legacy, legacy):
    use_legacy(legacy)
    named = [(kind, alias or path.partition(":")[2], path) for path, kind, alias in (*ESSENTIALS, *OTHERS)]
    named += [("CONFIG", path.partition(":")[2], path) for path in CONFIGS]
    named += [("MODELS", path.partition(":")[2], path) for path in MODELS]
    for kind, name, path in named:
        module, _, cls = path.partition(":")
        found = registered.get_cls(kind.lower(), name)
        assert (found.__module__, found.__name__) == (f"mindformers_qwenvl.{module}".rstrip("."), cls) or (
            kind == "CONFIG" and found.__name__ == cls
        )


def test_public_names_are_the_registered_classes(registered):
    import mindformers_qwenvl

    classes = [cls for kind in registered.registry.values() for cls in kind.values()]
    for name in mindformers_qwenvl._PUBLIC:
        assert getattr(mindformers_qwenvl, name) in classes


@pytest.mark.parametrize("legacy", [True, False])
def test_configs_by_model_type(registered, use_legacy, legacy):
    use_legacy(legacy)
    for name, cls in (("qwenvl", "QwenVLConfig"), ("qwenvl_vision", "QwenVLVisionConfig"), ("qwen", "QwenConfig")):
        assert registered.get_cls("config", name).__name__ == cls


def test_twice_changes_nothing(registered):
    """Neither the host's tables nor any function that a work-around of the index has replaced."""
    from mindformers.mindformer_book import MindFormerBook
    from mindformers.models.auto import auto_factory, configuration_auto, modeling_auto, tokenization_auto
    from mindformers.pipeline.registry_constant import PIPELINE_REGISTRY
    from mindformers.trainer import trainer
    from mindformers.wrapper.build_wrapper import WRAPPERS_MINDFORMERS_DEFINED

    def state():
        tables = {name: copy.deepcopy(value) for name, value in vars(MindFormerBook).items() if name.endswith("LIST")}
        mappings = [configuration_auto.CONFIG_MAPPING, tokenization_auto.TOKENIZER_MAPPING]
        mappings += [
            value for value in vars(modeling_auto).values() if isinstance(value, auto_factory._LazyAutoMapping)
        ]
        return [
            {kind: dict(classes) for kind, classes in registered.registry.items()},
            dict(registered.search_names_map),
            tables,
            [dict(mapping._extra_content) for mapping in mappings],
            dict(PIPELINE_REGISTRY.supported_tasks),
            set(trainer.SUPPORT_MODEL_NAMES),
            list(WRAPPERS_MINDFORMERS_DEFINED),
            {path: id(new) for path, new in replaced_in_host().items()},
            host.states(),
        ]

    before = state()
    assert before[-2]
    registration.register()
    assert state() == before


def test_tables_of_tasks_and_names(registered):
    from mindformers.mindformer_book import MindFormerBook
    from mindformers.pipeline import pipeline as pipeline_module
    from mindformers.trainer import base_trainer, trainer

    for held in (trainer.SUPPORT_TASKS, base_trainer.SUPPORT_TASKS, MindFormerBook.get_trainer_support_task_list()):
        assert Path(held[TASK][NAME]).name == "finetune_qwenvl_9.6b.yaml"
        assert {NAME, FAMILY, "common"} <= set(held[TASK])
    # `pipeline` in mindformers.pipeline is the function, which hides the module of that name.
    held = pipeline_module.__globals__["SUPPORT_PIPELINES"]
    assert Path(held[TASK][NAME]).name == "predict_qwenvl_9.6b.yaml"
    assert {NAME, FAMILY} <= trainer.SUPPORT_MODEL_NAMES
    for table in ("config", "model", "tokenizer", "processor"):
        assert getattr(MindFormerBook, f"get_{table}_support_list")()[FAMILY] == [NAME]


def test_yaml_files_of_the_tables_exist(registered):
    from mindformers.mindformer_book import MindFormerBook

    for table in (MindFormerBook.get_trainer_support_task_list(), MindFormerBook.get_pipeline_support_task_list()):
        assert Path(table[TASK][NAME]).is_file()


def test_the_trainer_takes_the_task(registered, tmp_path):
    """`Trainer` looks names up before anything else; a wrong one is named together with the right ones."""
    from mindformers import Trainer

    with pytest.raises(ValueError, match=r"qwenvl_9\.6b"):
        Trainer(task=TASK, model="no_such_model")
    with pytest.raises(ValueError, match="model_name"):
        Trainer(task=TASK, model_name="no_such_model")


def test_auto_classes_read_an_original_directory(registered, checkpoint_dir):
    from mindformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer

    from mindformers_qwenvl import QwenVL, QwenVLConfig, QwenVLProcessor, QwenVLTokenizer

    directory = str(checkpoint_dir("a56"))
    config = AutoConfig.from_pretrained(directory)
    assert type(config) is QwenVLConfig
    assert (config.vision.image_size, config.llm.vocab_size, config.num_queries) == (56, 1024, 16)
    assert type(AutoTokenizer.from_pretrained(directory)) is QwenVLTokenizer
    processor = AutoProcessor.from_pretrained(directory)
    assert type(processor) is QwenVLProcessor
    assert processor.image_processor.config["image_size"] == 56
    assert processor.tokenizer.image_slots == 16
    for auto in (AutoModel, AutoModelForCausalLM):
        assert type(auto.from_config(config)) is QwenVL
    network = AutoModel.from_pretrained(directory)
    assert type(network) is QwenVL
    _assert_same_weights(network, QwenVL.from_pretrained(directory))


@pytest.mark.parametrize("save_json", [True, False])
def test_auto_model_reads_what_save_pretrained_writes(registered, checkpoint_dir, tmp_path, save_json):
    from mindformers import AutoModel

    from mindformers_qwenvl import QwenVL

    network = QwenVL.from_pretrained(str(checkpoint_dir("a56")))
    network.save_pretrained(str(tmp_path / "saved"), save_json=save_json)
    again = AutoModel.from_pretrained(str(tmp_path / "saved"))
    assert type(again) is QwenVL
    _assert_same_weights(again, network)


def _assert_same_weights(one, other):
    weights = {parameter.name: parameter.asnumpy() for parameter in other.get_parameters()}
    for parameter in one.get_parameters():
        assert (parameter.asnumpy() == weights.pop(parameter.name)).all(), parameter.name
    assert not weights


def test_a_config_of_the_text_model_stays_one(registered, tmp_path):
    from mindformers import AutoConfig

    (tmp_path / "config.json").write_text('{"model_type": "qwen", "num_layers": 2}')
    config = AutoConfig.from_pretrained(str(tmp_path))
    assert (type(config).__name__, config.num_layers) == ("QwenConfig", 2)


def test_pipeline_of_an_original_directory(registered, checkpoint_dir):
    """Without the plugin the task is unknown; the stock pipeline would then want a processor."""
    from mindformers import pipeline

    made = pipeline(TASK, model=str(checkpoint_dir("a56")))
    inputs = made.preprocess([[{"text": "hello"}]])
    assert inputs["images"].shape == (1, 1, 3, 56, 56)
    assert type(made.network).__name__ == "QwenVL"


def test_pipeline_of_a_network_takes_its_processor(registered, checkpoint_dir):
    from mindformers import AutoProcessor, pipeline

    from mindformers_qwenvl import QwenVL

    directory = str(checkpoint_dir("a56"))
    processor = AutoProcessor.from_pretrained(directory)
    made = pipeline(TASK, model=QwenVL.from_pretrained(directory), processor=processor)
    assert made.processor is processor
