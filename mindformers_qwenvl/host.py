"""Work-arounds of MindFormers' faults. Each says: host file, reason, versions, and how to notice that it can go.

The tests of each (tests/test_host.py) show the stock fault in a process without plugins, and fail once it is mended.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mindformers.models.auto import AutoConfig
from mindformers.models.build_processor import build_processor
from mindformers.pipeline import MultiModalToTextPipeline
from mindformers.tools.register import MindFormerConfig, MindFormerRegister
from mindformers.trainer import MultiModalToTextGenerationTrainer

__all__ = [
    "FullConfigTrainer",
    "ProcessorPipeline",
    "SaveParameters",
    "accept_old_auto_register",
    "find_config_by_name",
]


def accept_old_auto_register(names: Collection[str]) -> None:
    """Take `auto_register: qwenvl_model.QwenVL` in an old YAML for the registered class of that name.

    Host: mindformers/tools/register/register.py, MindFormerRegister.auto_register. It raises OSError without
    REGISTER_PATH even when the class is registered. A file of that name in REGISTER_PATH still goes first, and classes
    not in `names` are left to the host. Seen in 1.6-1.9, 2.1. Can go when the host looks into its registry first.
    """

    def replacement(stock: Callable) -> Callable:
        def auto_register(cls, class_reference, *args, **kwargs):
            module, _, name = str(class_reference).rpartition(".")
            folder = os.getenv("REGISTER_PATH")
            if name in names and not (folder and Path(folder, f"{module}.py").is_file()):
                return None
            return stock(cls, class_reference, *args, **kwargs)

        return auto_register

    _replace(MindFormerRegister, "auto_register", replacement)


def find_config_by_name(yaml_files: Mapping[str, str]) -> None:
    """Let `AutoConfig.from_pretrained("qwenvl_9.6b")` read the YAML of that name.

    Host: mindformers/models/auto/configuration_auto.py, AutoConfig.get_config_origin_mode. It turns the name into an
    absolute path and then finds no such model (`glm4_9b` fails too). Seen in 1.7-1.9. Can go when the stock
    `AutoConfig.from_pretrained("glm4_9b")` works.
    """

    def replacement(stock: Callable) -> Callable:
        def get_config_origin_mode(cls, yaml_name_or_path, **kwargs):
            return stock(cls, yaml_files.get(yaml_name_or_path, yaml_name_or_path), **kwargs)

        return get_config_origin_mode

    _replace(AutoConfig, "get_config_origin_mode", replacement)


def _replace(owner: type, name: str, replacement: Callable[[Callable], Callable]) -> None:
    """Put `replacement(stock)` in the place of a class method, once: a second call changes nothing."""
    stock = getattr(owner, name).__func__
    if stock.__module__ != __name__:
        setattr(owner, name, classmethod(replacement(stock)))


class FullConfigTrainer(MultiModalToTextGenerationTrainer):
    """The stock trainer, which takes a YAML as it stands in prediction too.

    Host: mindformers/trainer/multi_modal_to_text_generation/multi_modal_to_text_generation.py, `predict`. Unlike
    `train` and the text trainer's `predict` it drops `is_full_config` and merges the user's YAML into the default one
    of the task table, whose settings leak into it. (Without our entry in that table there is no default.) Seen in 1.9.
    Can go when `predict` passes `is_full_config` on.

    `predict` also builds the YAML's `processor` in place, and predict_process (mindformers/trainer/base_trainer.py)
    then wants to build its image_processor again, from the object: AttributeError. Here it is built from a copy.
    Seen in 1.9. Can go when stock `build_processor` may be called twice on one section.
    """

    def set_config(self, config: Any = None, is_full_config: bool = False) -> Any:
        return super().set_config(config, is_full_config or isinstance(config, MindFormerConfig))

    def predict(self, config: Any = None, input_data: Any = None, network: Any = None, processor: Any = None, **kwargs):
        if processor is None and isinstance(config, MindFormerConfig):
            processor = build_processor(copy.deepcopy(config.processor))
            kwargs["image_processor"] = kwargs.get("image_processor") or processor.image_processor
        return super().predict(config, input_data, network, processor, **kwargs)


class ProcessorPipeline(MultiModalToTextPipeline):
    """The stock pipeline, which puts its processor together from the parts that `pipeline()` hands it.

    Host: mindformers/pipeline/pipeline.py builds tokenizer and image processor and passes them on, but
    mindformers/pipeline/multi_modal_to_text_generation_pipeline.py wants a processor and raises ValueError. Seen in
    1.6-1.9, 2.1. Can go when `pipeline("multi_modal_to_text_generation", model=...)` needs no `processor=`.
    """

    def __init__(self, model: Any, processor: Any = None, tokenizer: Any = None, image_processor: Any = None, **kwargs):
        from mindformers_qwenvl.auto import processor_for  # the network imports this module, so only now
        from mindformers_qwenvl.config import QwenVLConfig

        config = getattr(getattr(model, "predict_network", model), "config", None)
        if processor is None and tokenizer is not None and isinstance(config, QwenVLConfig):
            processor = processor_for(config, tokenizer, image_processor)
        super().__init__(model, processor=processor, tokenizer=tokenizer, image_processor=image_processor, **kwargs)


class SaveParameters:
    """A first base class for networks: `save_pretrained(directory, save_json=True)` saves the weights.

    Host: mindformers/models/modeling_utils.py, PreTrainedModel.save_pretrained_experimental_mode. It hands bare tensors
    to mindspore.save_checkpoint, which takes only Parameters in a dict and raises UnboundLocalError. Seen in 1.9 on
    MindSpore 2.9 and 2.10. Can go when the stock model saves without `state_dict=`.
    """

    def save_pretrained(self, save_directory: str, save_name: str = "mindspore_model", **kwargs: Any) -> None:
        if kwargs.get("save_json") and kwargs.get("state_dict") is None:
            kwargs["state_dict"] = {parameter.name: parameter for parameter in self.get_parameters()}
        super().save_pretrained(save_directory, save_name, **kwargs)
