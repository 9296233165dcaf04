"""Work-arounds of MindFormers' faults. Each says: host file, reason, versions, and how to notice that it can go.

tests/host/test_faults.py shows each stock fault in a process without plugins, and fails once it is mended;
tests/host/test_host.py tests what stands here.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers.generation import GenerationConfig
from mindformers.models.auto import AutoConfig, auto_factory, configuration_auto, processing_auto, tokenization_auto
from mindformers.models.build_processor import build_processor
from mindformers.pipeline import MultiModalToTextPipeline
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerConfig, MindFormerRegister
from mindformers.trainer import MultiModalToTextGenerationTrainer

from mindformers_qwenvl.adapters.switch import AdapterSwitch
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.data.processor import QwenVLProcessor
from mindformers_qwenvl.generation.settings import generation_config_of, save_generation_config, settings_for
from mindformers_qwenvl.host.adapters import prepare_adapters
from mindformers_qwenvl.weights.hooks import refuse_incomplete
from mindformers_qwenvl.weights.in_tree import refuse_in_tree

__all__ = [
    "FullConfigTrainer",
    "OwnGenerationConfig",
    "ProcessorPipeline",
    "SaveParameters",
    "accept_old_auto_register",
    "find_config_by_name",
    "prefer_this_package",
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


def prefer_this_package() -> None:
    """Let `trust_remote_code=True`, which the original's README wants, still open its directories with this package.

    Host: mindformers/models/auto/*.py, by way of resolve_trust_remote_code in mindformers/tools/hub/
    dynamic_module_utils.py. With it the Auto classes run the Python files beside the weights, PyTorch code, although
    they have a class of their own. Seen in 1.9. Can go when a registered class goes before `auto_map` there.
    """
    for module in (auto_factory, configuration_auto, processing_auto, tokenization_auto):
        stock = module.resolve_trust_remote_code
        if stock.__module__ != __name__:
            module.resolve_trust_remote_code = _preferring(stock)


def _preferring(stock: Callable) -> Callable:
    def resolve_trust_remote_code(trust_remote_code, model_name, has_local_code, has_remote_code):
        if trust_remote_code and has_local_code and has_remote_code and _is_original(model_name):
            logger.info("%s: opened by mindformers-qwenvl; the code beside the weights is for PyTorch", model_name)
            return False
        return stock(trust_remote_code, model_name, has_local_code, has_remote_code)

    return resolve_trust_remote_code


def _is_original(directory: Any) -> bool:
    try:
        settings = json.loads(Path(directory, "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") == "qwen" and "visual" in settings


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

    predict_process also looks for `top_k` in the outer model section alone, and where there is none hands the pipeline
    top_k=1, with which `do_sample: True` is greedy. Here it is that of the language model. Seen in 1.9. Can go when
    predict_process hands on no `top_k` that nobody has set.

    And _check_grad_accumulation_steps (mindformers/trainer/base_trainer.py) sets `gradient_accumulation_steps` to 1
    where it cannot accumulate, and trains on. Here that is an error. Seen in 1.9. Can go when the host raises.

    With `sink_mode: True`, training_process multiplies the epochs by their steps, for each to sink `sink_size` steps.
    MindSpore sinks nothing on a CPU and runs whole epochs, so many. Here sink_mode is off there. Seen in 1.9. Can go
    when the stock Trainer takes `epochs` epochs on a CPU with `sink_mode: True`.
    """

    def set_config(self, config: Any = None, is_full_config: bool = False) -> Any:
        config = super().set_config(config, is_full_config or isinstance(config, MindFormerConfig))
        for path in (config.get("load_checkpoint"), (config.get("checkpoint") or {}).get("load_path")):
            if path and isinstance(path, str):
                refuse_in_tree(path)
        path = config.get("load_checkpoint")
        if path and isinstance(path, str) and config.get("load_ckpt_format") == "safetensors":
            refuse_incomplete(path)
        prepare_adapters(config)
        runner = config.get("runner_config")
        if runner and runner.get("sink_mode") and ms.get_context("device_target") == "CPU":
            logger.warning("runner_config: sink_mode: True: nothing sinks on a CPU; sink_mode is off.")
            runner.sink_mode = False
        return config

    def set_train_dataset(self, dataset: Any) -> None:
        if dataset is not None and not dataset.get_dataset_size():  # MindSpore says so after the network is built
            raise ValueError(
                "train_dataset: its samples make no batch: there are fewer than the "
                f"{self.config.runner_config.batch_size} of a batch, or none at all. Set a smaller "
                "runner_config.batch_size, or give more samples"
            )
        super().set_train_dataset(dataset)

    def create_optimizer_scheduler(self, network: Any, model_params: set) -> Any:
        if not network.trainable_params():  # MindSpore's words: parameters must not be empty
            raise ValueError(
                "model_config: all parameters are frozen, and nothing would learn: of freeze_vision, freeze_resampler "
                "and freeze_llm, set one to False"
            )
        return super().create_optimizer_scheduler(network, model_params)

    def _check_grad_accumulation_steps(self) -> None:
        wanted = self.config.runner_config.gradient_accumulation_steps
        super()._check_grad_accumulation_steps()
        if wanted is not None and wanted != self.config.runner_config.gradient_accumulation_steps:
            raise ValueError(
                f"runner_config: gradient_accumulation_steps={wanted}: MindFormers accumulates in semi_auto_parallel "
                "without pipeline stages only, and would go on with 1. On one card and in data parallel, set "
                f"runner_wrapper.accumulation_steps={wanted} (type QwenVLTrainOneStepCell) and multiply "
                "runner_config.batch_size by it; with pipeline stages, set parallel_config.micro_batch_num"
            )
        self._check_parts_of_a_batch()

    def _check_parts_of_a_batch(self) -> None:
        """Of QwenVLTrainOneStepCell, which would see the number of rows only while its graph is compiled."""
        parts = (self.config.runner_wrapper or {}).get("accumulation_steps")
        if isinstance(parts, bool) or not isinstance(parts, int) or parts <= 1:
            return  # what is no number of parts is an error of the cell
        if ms.get_auto_parallel_context("parallel_mode") in ("semi_auto_parallel", "auto_parallel"):
            # The host may take a wrapper of its own there, which would not know the key and say nothing.
            raise ValueError(
                f"runner_wrapper: accumulation_steps={parts} is for one card and data parallel; in semi_auto_parallel "
                "use runner_config.gradient_accumulation_steps, with pipeline stages parallel_config.micro_batch_num"
            )
        rows = self.config.runner_config.batch_size
        if isinstance(rows, int) and rows % parts:
            raise ValueError(
                f"runner_wrapper: accumulation_steps={parts} must divide runner_config.batch_size={rows}, the rows of "
                "a batch on a card; change one of the two"
            )

    def predict(self, config: Any = None, input_data: Any = None, network: Any = None, processor: Any = None, **kwargs):
        if processor is None and isinstance(config, MindFormerConfig):
            processor = build_processor(copy.deepcopy(config.processor))
            kwargs["image_processor"] = kwargs.get("image_processor") or processor.image_processor
        if kwargs.get("top_k") is None and isinstance(config, MindFormerConfig):
            kwargs["top_k"] = _yaml_top_k(config)
        return super().predict(config, input_data, network, processor, **kwargs)


def _yaml_top_k(config: MindFormerConfig) -> int:
    model = config.model.model_config if config.model else {}
    language = (model.get("llm_model") or {}).get("model_config") or {}
    return next((place["top_k"] for place in (config, model, language) if place.get("top_k") is not None), 0)


class ProcessorPipeline(MultiModalToTextPipeline):
    """The stock pipeline, which finds its processor: that of the directory the network came from, or one put together
    from the parts that `pipeline()` hands it.

    Host: mindformers/pipeline/pipeline.py builds tokenizer and image processor and passes them on, but
    mindformers/pipeline/multi_modal_to_text_generation_pipeline.py wants a processor and raises ValueError. Seen in
    1.6-1.9, 2.1. Can go when `pipeline("multi_modal_to_text_generation", model=...)` needs no `processor=`.

    The same file drops what a call says about the answer, `pipe(queries, max_new_tokens=8)`; here that reaches
    `generate()`, as it does in text_generation_pipeline.py. And mindformers/pipeline/base_pipeline.py saves as a YAML,
    which `pipeline(task, directory)` does not read, and no processor; here it saves config.json and all else that is
    read. Seen in 1.9. Can go when the stock pipeline does so.
    """

    def __init__(self, model: Any, processor: Any = None, tokenizer: Any = None, image_processor: Any = None, **kwargs):
        network = getattr(model, "predict_network", model)
        if isinstance(network, AdapterSwitch):
            network.load_configured_adapters()  # after the weights, which some of them replace
        if processor is None:
            processor = self._processor_of(getattr(model, "predict_network", model), tokenizer, image_processor)
        if processor is not None:
            tokenizer, image_processor = tokenizer or processor.tokenizer, image_processor or processor.image_processor
        super().__init__(model, processor=processor, tokenizer=tokenizer, image_processor=image_processor, **kwargs)

    @staticmethod
    def _processor_of(network: Any, tokenizer: Any, image_processor: Any) -> Any:
        config = getattr(network, "config", None)
        if not isinstance(config, QwenVLConfig):
            return None
        directory = Path(config.name_or_path)
        if image_processor is None and config.name_or_path and (directory / "config.json").is_file():
            return QwenVLProcessor.from_pretrained(directory, tokenizer=tokenizer)
        if tokenizer is None:
            return None
        return QwenVLProcessor.for_network(config, tokenizer, image_processor, network.generation_config)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        before, _, after = super()._sanitize_parameters(**parameters)
        usual = (*GenerationConfig().to_dict(), "generation_config", "logits_processor", "streamer", "seed")
        about_the_answer = {name: value for name, value in parameters.items() if name in usual}
        if "skip_special_tokens" in parameters:
            after["skip_special_tokens"] = parameters["skip_special_tokens"]
        return before, about_the_answer, after

    def save_pretrained(self, save_directory: str, save_name: str = "mindspore_model") -> None:
        """Write what `pipeline(task, save_directory)` reads: weights, JSON files and the vocabulary."""
        self.network.save_pretrained(save_directory, save_name, save_json=True)
        self.processor.save_pretrained(save_directory, save_name)


class OwnGenerationConfig:
    """A base class for networks, before the host's `PreTrainedModel`: `generate()` follows `self.generation_config`,
    as far as that was read from a generation_config.json or given by the user.

    Host: mindformers/generation/text_generator.py, GenerationMixin.generate. Without an argument `generation_config` it
    makes one of the network's configuration, and reads `self.generation_config` only with `use_legacy: False`; nor
    does PreTrainedModel.from_pretrained read the file. Seen in 1.9. Can go when the stock `generate()` stops where
    `network.generation_config.max_new_tokens` says.
    """

    def generate(
        self,
        input_ids: Any,
        generation_config: Any = None,
        logits_processor: Any = None,
        streamer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The host's; keywords go before `generation_config`, and that before the model's own.

        A model whose own says `chat_format: chatml` also stops at <|im_end|> and <|im_start|>, as its `chat` does.
        """
        if generation_config is None and not self.generation_config._from_model_config:
            generation_config = settings_for(self)
            if getattr(self.generation_config, "chat_format", None) == "chatml":
                known = generation_config.eos_token_id
                turns = getattr(self.config, "turn_ids", ())
                generation_config.eos_token_id = [*known, *(i for i in turns if i not in known)]
            if "max_length" in kwargs:  # the host would let max_new_tokens go before it
                generation_config.max_new_tokens = None
        return super().generate(input_ids, generation_config, logits_processor, streamer, seed, **kwargs)

    @classmethod
    def from_pretrained_experimental_mode(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's, and generation_config.json if there is one."""
        network = super().from_pretrained_experimental_mode(pretrained_model_name_or_path, *args, **kwargs)
        network.generation_config = generation_config_of(pretrained_model_name_or_path) or network.generation_config
        return network


class SaveParameters:
    """A first base class for networks: `save_pretrained(directory, save_json=True)` saves the weights.

    Without the key/value cache, which is none, and with the generation_config.json that the network came with.

    Host: mindformers/models/modeling_utils.py, PreTrainedModel.save_pretrained_experimental_mode. It hands bare tensors
    to mindspore.save_checkpoint, which takes only Parameters in a dict and raises UnboundLocalError. Seen in 1.9 on
    MindSpore 2.9 and 2.10. Can go when the stock model saves without `state_dict=`.
    """

    def save_pretrained(self, save_directory: str, save_name: str = "mindspore_model", **kwargs: Any) -> None:
        if kwargs.get("save_json") and kwargs.get("state_dict") is None:
            weights = (parameter for parameter in self.get_parameters() if ".cache." not in parameter.name)
            kwargs["state_dict"] = {parameter.name: parameter for parameter in weights}
        super().save_pretrained(save_directory, save_name, **kwargs)
        if not self.generation_config._from_model_config:
            save_generation_config(self.generation_config, save_directory)
