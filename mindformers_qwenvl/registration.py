"""Everything this package adds to MindFormers, in one list. The plugin `qwenvl` of the group `mindformers.plugins`."""

from __future__ import annotations

from pathlib import Path

from mindformers_qwenvl.discovery.hookspec import hookimpl

__all__ = ["FAMILY", "NAME", "TASK", "mindformers_register", "register", "yaml_dir"]

NAME = "qwenvl_9.6b"  # what `Trainer`, `pipeline` and the Auto classes take for a path
FAMILY = "qwenvl"  # NAME up to the first `_`: the host's key for it
TASK = "multi_modal_to_text_generation"


@hookimpl
def mindformers_register() -> None:
    register()


def yaml_dir() -> Path:
    """Folder of the YAMLs: inside the installed package; in a checkout beside it."""
    package = Path(__file__).parent
    return package / "yaml" if (package / "yaml").is_dir() else package.parent / "yaml"


def register() -> None:
    """Add Qwen-VL to MindFormers, and mend what stands in its way. A second call changes nothing."""
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl import config
    from mindformers_qwenvl.data import normalise, processor, template, tokenizer
    from mindformers_qwenvl.datasets import loader
    from mindformers_qwenvl.host import adapters, old_names, resume, threads
    from mindformers_qwenvl.host import workarounds as host
    from mindformers_qwenvl.model import language, qwenvl, vision
    from mindformers_qwenvl.training import adapters as adapter_monitor
    from mindformers_qwenvl.training import monitor, optimizer
    from mindformers_qwenvl.training import step as train

    configs = (config.QwenVLConfig, config.QwenVLVisionConfig, config.QwenConfig)
    models = (qwenvl.QwenVL, vision.QwenVLVisionModel, language.QwenForCausalLM)
    others = {
        tokenizer.QwenVLTokenizer: Kind.TOKENIZER,
        processor.QwenVLProcessor: Kind.PROCESSOR,
        processor.QwenVLImageProcessor: Kind.PROCESSOR,
        template.QwenVLContentTransformTemplate: Kind.TRANSFORMS,
        normalise.QwenVLBatchNormalize: Kind.TRANSFORMS,
        loader.QwenVLDataLoader: Kind.DATASET_LOADER,
        train.QwenVLTrainOneStepCell: Kind.WRAPPER,
        optimizer.QwenVLAdamW: Kind.OPTIMIZER,
        old_names.FP32StateAdamWeightDecay: Kind.OPTIMIZER,
        old_names.ObsMonitor: Kind.CALLBACK,
        monitor.QwenVLMonitor: Kind.CALLBACK,
        adapter_monitor.QwenVLAdapterMonitor: Kind.CALLBACK,
    }
    for legacy in (True, False):  # the YAML's `use_legacy`, which has names of its own for configurations and models
        for cls in configs:
            MindFormerRegister.register_cls(cls, Kind.CONFIG, legacy=legacy, search_names=cls.model_type)
        for cls in models:
            MindFormerRegister.register_cls(cls, Kind.MODELS, legacy=legacy)
    for cls, kind in others.items():
        MindFormerRegister.register_cls(cls, kind)
    for alias in ("MultiModalToTextGenerationTrainer", "ImageToTextGenerationTrainer"):  # the latter in old YAMLs
        MindFormerRegister.register_cls(host.FullConfigTrainer, Kind.TRAINER, alias=alias)
    MindFormerRegister.register_cls(host.ProcessorPipeline, Kind.PIPELINE, alias=TASK)

    _tables()
    _auto_classes()
    host.accept_old_auto_register({cls.__name__ for cls in (*configs, *models, *others)})
    host.prefer_this_package()
    adapters.use_own_adapters()
    threads.separate_threads()
    resume.barrier_on_cpu()
    resume.resume_in_data_parallel()
    host.find_config_by_name({NAME: str(yaml_dir() / f"predict_{NAME}.yaml")})


def _tables() -> None:
    """Names and tasks, in the host's tables. They are changed in place, for other modules hold them too."""
    from mindformers.mindformer_book import MindFormerBook as Book
    from mindformers.trainer import trainer
    from mindformers.wrapper.build_wrapper import WRAPPERS_MINDFORMERS_DEFINED

    for table, use in (
        (Book.get_trainer_support_task_list(), "finetune"),
        (Book.get_pipeline_support_task_list(), "predict"),
    ):
        task = table.setdefault(TASK, type(table)(common=table["text_generation"]["common"]))
        task[NAME] = task[FAMILY] = str(yaml_dir() / f"{use}_{NAME}.yaml")
    trainer.SUPPORT_MODEL_NAMES.update((NAME, FAMILY))  # a copy, taken at import
    for support_list in (
        Book.get_config_support_list(),
        Book.get_model_support_list(),
        Book.get_tokenizer_support_list(),
        Book.get_processor_support_list(),
    ):
        support_list[FAMILY] = [NAME]
    Book.get_tokenizer_name_to_processor()["QwenVLTokenizer"] = "QwenVLProcessor"
    if "QwenVLTrainOneStepCell" not in WRAPPERS_MINDFORMERS_DEFINED:
        WRAPPERS_MINDFORMERS_DEFINED.append("QwenVLTrainOneStepCell")


def _auto_classes() -> None:
    """AutoConfig and friends, and `pipeline(TASK, directory)`."""
    from mindformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoProcessor,
        AutoTokenizer,
    )
    from mindformers.pipeline.registry_constant import PIPELINE_REGISTRY

    from mindformers_qwenvl import config
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor, QwenVLProcessor
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer
    from mindformers_qwenvl.host import auto
    from mindformers_qwenvl.host import workarounds as host
    from mindformers_qwenvl.model import language, qwenvl

    AutoConfig.register(config.QwenVLConfig.model_type, config.QwenVLConfig, exist_ok=True)
    AutoConfig.register(config.QwenVLVisionConfig.model_type, config.QwenVLVisionConfig, exist_ok=True)
    AutoConfig.register(auto.OriginalConfig.model_type, auto.OriginalConfig, exist_ok=True)
    for auto_model in (AutoModel, AutoModelForCausalLM):
        auto_model.register(config.QwenVLConfig, qwenvl.QwenVL, exist_ok=True)
        auto_model.register(config.QwenConfig, language.QwenForCausalLM, exist_ok=True)
    AutoTokenizer.register(config.QwenVLConfig, QwenVLTokenizer, exist_ok=True)
    AutoTokenizer.register(auto.OriginalConfig, auto.QWenTokenizer, exist_ok=True)
    AutoProcessor.register(config.QwenVLConfig, QwenVLProcessor, exist_ok=True)
    # Not under QwenVLConfig: `pipeline` would then insist on a file that the original's directories do not have.
    AutoImageProcessor.register(config.QwenVLVisionConfig, QwenVLImageProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, host.ProcessorPipeline, ms_model=(auto.PipelineModel,), task_type="multimodal"
        )
