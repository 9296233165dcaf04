"""Everything this package adds to MindFormers, in one list. The plugin `qwenvl` of the group `mindformers.plugins`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from mindformers_qwenvl import host
from mindformers_qwenvl.discovery.hookspec import hookimpl
from mindformers_qwenvl.host.tables import add_pipeline, table_entries
from mindformers_qwenvl.recipes import yaml_dir
from mindformers_qwenvl.versions import HostError, hidden, installed, require_host

__all__ = ["FAMILY", "NAME", "TASK", "mindformers_register", "register", "yaml_dir"]

NAME = "qwenvl_9.6b"  # what `Trainer`, `pipeline` and the Auto classes take instead of a path
FAMILY = "qwenvl"  # NAME up to the first `_`: the host's key for it
TASK = "multi_modal_to_text_generation"

CONFIGS = ("config:QwenVLConfig", "config:QwenVLVisionConfig", "config:QwenConfig")
MODELS = ("model.qwenvl:QwenVL", "model.vision:QwenVLVisionModel", "model.language:QwenForCausalLM")
# Class, kind of `MindFormerModuleType`, name if it is not that of the class. Qwen-VL cannot do without these.
ESSENTIALS = (
    ("data.tokenizer:QwenVLTokenizer", "TOKENIZER", None),
    ("data.processor:QwenVLProcessor", "PROCESSOR", None),
    ("data.image_processor:QwenVLImageProcessor", "PROCESSOR", None),
    ("data.template:QwenVLContentTransformTemplate", "TRANSFORMS", None),
    ("data.normalise:QwenVLBatchNormalize", "TRANSFORMS", None),
    ("datasets.loader:QwenVLDataLoader", "DATASET_LOADER", None),
    ("training.step:QwenVLTrainOneStepCell", "WRAPPER", None),
)
# These may be missing where MindFormers lacks what they are built on.
OTHERS = (
    ("training.optimizer:QwenVLAdamW", "OPTIMIZER", None),
    ("training.monitor:QwenVLMonitor", "CALLBACK", None),
    ("training.adapters:QwenVLAdapterMonitor", "CALLBACK", None),
    ("host.old_names:FP32StateAdamWeightDecay", "OPTIMIZER", None),
    ("host.old_names:ObsMonitor", "CALLBACK", None),
    ("training.trainer:QwenVLTrainer", "TRAINER", "MultiModalToTextGenerationTrainer"),
    ("training.trainer:QwenVLTrainer", "TRAINER", "ImageToTextGenerationTrainer"),  # in old YAMLs
    ("host.pipeline:ProcessorPipeline", "PIPELINE", TASK),
)


@hookimpl
def mindformers_register() -> None:
    register()


def register() -> None:
    """Add Qwen-VL to MindFormers, and work around what stands in its way. A second call changes nothing.

    If MindFormers lacks what a work-around or one of OTHERS needs, that one is left out with a warning, and the rest
    stays; see `host.states()`.

    Raises:
        HostError: MindFormers is too old, or lacks what Qwen-VL cannot do without. In that case nothing has been added.
    """
    require_host()
    try:
        additions = [*_classes(), _tables(), *_auto_classes()]
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        reason = f"Qwen-VL cannot run on {_host()}: {type(error).__name__}: {error}"
        raise HostError(". ".join(filter(None, [reason, _shadow()]))) from error
    for add in additions:
        add()
    _report([*_others(), *_work_arounds()])


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def _classes() -> list[Callable[[], Any]]:
    """Calls that add the classes Qwen-VL needs; all classes are imported before the first is added."""
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    add, additions = MindFormerRegister.register_cls, []
    configs, models = [_load(path) for path in CONFIGS], [_load(path) for path in MODELS]
    for legacy in (True, False):  # the YAML's `use_legacy`: each value has its own names of configurations and models
        for cls in configs:
            additions.append(partial(add, cls, Kind.CONFIG, legacy=legacy, search_names=cls.model_type))
        for cls in models:
            additions.append(partial(add, cls, Kind.MODELS, legacy=legacy))
    for path, kind, alias in ESSENTIALS:
        additions.append(partial(add, _load(path), getattr(Kind, kind), alias=alias))
    return additions


def _others() -> list[str]:
    """Add the other classes; return a sentence for each one that could not be added."""
    from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

    lost = []
    for path, kind, alias in OTHERS:
        try:
            cls = _load(path)
            MindFormerRegister.register_cls(cls, getattr(MindFormerModuleType, kind), alias=alias)
            if kind == "PIPELINE":
                add_pipeline(TASK, cls)
        except Exception as error:
            lost.append(f"{alias or path.partition(':')[2]}: not available on {_host()}: {_words(error)}")
    return lost


def _work_arounds() -> list[str]:
    """Install the work-arounds that `host` lists; return a sentence for each one that is not available."""
    classes = [path.partition(":")[2] for path in (*CONFIGS, *MODELS, *(path for path, *_ in (*ESSENTIALS, *OTHERS)))]
    arguments = {
        "host.names:accept_old_auto_register": (set(classes),),
        "host.names:find_config_by_name": ({NAME: str(yaml_dir() / f"predict_{NAME}.yaml")},),
    }
    states = [host.install(row, *arguments.get(row.where, ())) for row in host.WORK_AROUNDS]
    return [state.sentence(_host()) for state in states if state.state == host.NOT_AVAILABLE]


def _report(sentences: list[str]) -> None:
    from mindformers.tools.logger import logger

    for sentence in filter(None, [_shadow(), *sentences]):
        logger.warning("mindformers-qwenvl: %s", sentence)


def _host() -> str:
    found = installed("mindformers")
    return f"MindFormers {found.version}".rstrip() if found else "MindFormers"


def _shadow() -> str:
    """A sentence if another MindFormers than the installed one is imported, from a checkout in the current folder."""
    found, behind = installed("mindformers"), hidden("mindformers")
    if found is None or behind is None or found.version == behind.version:
        return ""
    return (
        f"`import mindformers` finds {found.folder}, version {found.version or 'unknown'}, which hides the installed "
        f"MindFormers {behind.version} in {behind.folder}; check out that version there, or start in another folder"
    )


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _tables() -> Callable[[], Any]:
    yamls = {use: yaml_dir() / f"{use}_{NAME}.yaml" for use in ("finetune", "predict")}
    return table_entries(TASK, FAMILY, NAME, yamls)


def _auto_classes() -> list[Callable[[], Any]]:
    """Calls that add the classes to AutoConfig and friends."""
    from mindformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoProcessor,
        AutoTokenizer,
    )

    from mindformers_qwenvl.host.auto import OriginalConfig, QWenTokenizer

    config, vision_config, llm_config = [_load(path) for path in CONFIGS]
    network, _, llm = [_load(path) for path in MODELS]
    rows = [
        *((AutoConfig, cls.model_type, cls) for cls in (config, vision_config, OriginalConfig)),
        *((auto, config, network) for auto in (AutoModel, AutoModelForCausalLM)),
        *((auto, llm_config, llm) for auto in (AutoModel, AutoModelForCausalLM)),
        (AutoTokenizer, config, _load("data.tokenizer:QwenVLTokenizer")),
        (AutoTokenizer, OriginalConfig, QWenTokenizer),
        (AutoProcessor, config, _load("data.processor:QwenVLProcessor")),
        # Not under QwenVLConfig: `pipeline` would then insist on a file that the original's directories do not have.
        (AutoImageProcessor, vision_config, _load("data.image_processor:QwenVLImageProcessor")),
    ]
    return [partial(auto.register, key, cls, exist_ok=True) for auto, key, cls in rows]
