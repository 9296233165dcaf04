"""Work-arounds for faults of MindFormers' trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mindformers.models.build_processor import build_processor
from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerConfig
from mindformers.trainer import MultiModalToTextGenerationTrainer

from mindformers_qwenvl.checks import is_whole
from mindformers_qwenvl.host.accumulation import check_accumulation
from mindformers_qwenvl.host.adapters import prepare_adapters
from mindformers_qwenvl.host.context import is_sharded, lacks_ascend_operators, sinks_data
from mindformers_qwenvl.host.mistakes import refuse_on_cpu, say_longer_samples, say_unused_flags
from mindformers_qwenvl.text.vocabulary_file import PUBLISHED_IMAGE_START, check_file, find_vocabulary
from mindformers_qwenvl.weights.hooks import refuse_incomplete
from mindformers_qwenvl.weights.in_tree import refuse_in_tree

__all__ = ["FullConfigTrainer"]


class FullConfigTrainer(MultiModalToTextGenerationTrainer):
    """The stock trainer, but it uses a YAML unchanged in prediction, too.

    Host: mindformers/trainer/multi_modal_to_text_generation/multi_modal_to_text_generation.py, `predict`. Unlike
    `train` and the text trainer's `predict`, it drops `is_full_config` and merges the user's YAML into the default one
    of the task table, so that settings of the default take effect. (Without our entry in that table there is no
    default.) Seen in 1.7-2.1. Can go when `predict` passes `is_full_config` on.

    `predict` also builds the YAML's `processor` in place, and predict_process (mindformers/trainer/base_trainer.py)
    then tries to build its image_processor again, from the object: AttributeError. Here it is built from a copy. Seen
    in 1.7-2.1. Can go when stock `build_processor` may be called twice on one section.

    predict_process also looks for `top_k` only in the outer model section, and otherwise passes top_k=1 to the
    pipeline, with which `do_sample: True` is greedy. Here it is that of the language model. Seen in 1.7-2.1. Can go
    when predict_process does not pass a `top_k` that nobody has set.

    And _check_grad_accumulation_steps (mindformers/trainer/base_trainer.py) sets `gradient_accumulation_steps` to 1
    if it cannot accumulate, and training goes on. Here that is an error. Seen in 1.7-2.1. Can go when the host raises.

    With `sink_mode: True`, training_process multiplies the epochs by their steps, so that each sinks `sink_size` steps.
    MindSpore sinks nothing on a CPU, and runs that many whole epochs. Here sink_mode is switched off on a CPU. Seen in
    1.7-2.1. Can go when the stock Trainer runs `epochs` epochs on a CPU with `sink_mode: True`.

    A file is read as `load_ckpt_format` says (mindformers/utils/load_checkpoint_utils.py), whatever its name ends with.
    Here the name decides. Seen in 1.7-2.1. Can go when the host loads a .ckpt file with `load_ckpt_format:
    safetensors`.
    """

    def set_config(self, config: Any = None, is_full_config: bool = False) -> Any:
        config = super().set_config(config, is_full_config or isinstance(config, MindFormerConfig))
        for path in (config.get("load_checkpoint"), (config.get("checkpoint") or {}).get("load_path")):
            if path and isinstance(path, str):
                refuse_in_tree(path)
        path = config.get("load_checkpoint")
        _take_format_of_file(config)
        if path and isinstance(path, str) and config.get("load_ckpt_format") == "safetensors":
            refuse_incomplete(path)
        say_unused_flags(config)
        training = config.get("run_mode") in ("train", "finetune")
        if training:
            say_longer_samples(config)
        if lacks_ascend_operators():
            refuse_on_cpu(config, training=training)
        check_vocabularies(config)
        prepare_adapters(config)
        runner = config.get("runner_config")
        if runner and runner.get("sink_mode") and not sinks_data():
            logger.warning("runner_config.sink_mode is switched off: a CPU has no data queue.")
            runner.sink_mode = False
        return config

    def set_train_dataset(self, dataset: Any) -> None:
        if dataset is not None and not dataset.get_dataset_size():  # MindSpore says so after the network is built
            raise ValueError(
                "train_dataset: its samples do not fill one batch: there are fewer than "
                f"runner_config.batch_size={self.config.runner_config.batch_size}, or none at all. Set a smaller "
                "runner_config.batch_size, or give more samples"
            )
        super().set_train_dataset(dataset)

    def create_optimizer_scheduler(self, network: Any, *args: Any, **kwargs: Any) -> Any:  # 1.7: layer_scale too
        runner = self.config.runner_config
        if runner.initial_epoch and runner.initial_epoch >= runner.epochs:  # MindSpore names arguments of its own
            # With sink_mode, MindFormers has multiplied both; `origin_epochs` are those of the YAML.
            raise ValueError(
                f"resume_training: the checkpoint is at the end of runner_config.epochs={runner.origin_epochs}, so "
                "nothing is left to train; set more epochs to continue"
            )
        if not network.trainable_params():  # MindSpore says: parameters must not be empty
            raise ValueError(
                "model_config: all parameters are frozen, so nothing would be trained; set one of freeze_vision, "
                "freeze_resampler and freeze_llm to False"
            )
        return super().create_optimizer_scheduler(network, *args, **kwargs)

    def _check_grad_accumulation_steps(self) -> None:
        runner, wrapper = self.config.runner_config, self.config.runner_wrapper or {}
        steps, parts = runner.gradient_accumulation_steps, wrapper.get("accumulation_steps")
        super()._check_grad_accumulation_steps()
        check_accumulation(
            sharded=is_sharded(),
            pipeline_stages=self.get_pipeline_stages(),
            gradient_accumulation_steps=steps or 1,
            # A value that is not a number of parts is reported by the cell.
            accumulation_steps=parts if is_whole(parts, 1) else 1,
            batch_size=runner.batch_size if is_whole(runner.batch_size, 1) else None,
        )

    def predict(self, config: Any = None, input_data: Any = None, network: Any = None, processor: Any = None, **kwargs):
        if processor is None and isinstance(config, MindFormerConfig):
            processor = build_processor(copy.deepcopy(config.processor))
            kwargs["image_processor"] = kwargs.get("image_processor") or processor.image_processor
        if kwargs.get("top_k") is None and isinstance(config, MindFormerConfig):
            kwargs["top_k"] = _yaml_top_k(config)
        return super().predict(config, input_data, network, processor, **kwargs)


def check_vocabularies(config: Any) -> None:
    """Raise ValueError if the vocabulary of a tokenizer that this run uses does not belong to `model.model_config`. A
    missing vocabulary is reported by the tokenizer."""
    model = (config.get("model") or {}).get("model_config")
    if not isinstance(model, dict) or model.get("type") != "QwenVLConfig":
        return
    training = config.get("run_mode") in ("train", "finetune")
    for name in ("train_dataset",) if training else ("processor",):
        section = config.get(name)
        tokenizer = section.get("tokenizer") if isinstance(section, dict) else None  # not if it is built already
        if isinstance(tokenizer, dict) and tokenizer.get("type") == "QwenVLTokenizer":
            try:
                vocabulary = find_vocabulary(tokenizer.get("vocab_file"))
                check_file(vocabulary, model.get("image_start_id", PUBLISHED_IMAGE_START))
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ValueError(f"{name}.tokenizer: {error}") from None


def _take_format_of_file(config: MindFormerConfig) -> None:
    for path in (config.get("load_checkpoint"), (config.get("checkpoint") or {}).get("load_path")):
        ending = Path(path).suffix.removeprefix(".") if path and isinstance(path, str) else ""
        if ending in ("ckpt", "safetensors") and config.get("load_ckpt_format") != ending:
            logger.info("load_checkpoint is a .%s file, so load_ckpt_format is %s.", ending, ending)
            config.load_ckpt_format = ending


def _yaml_top_k(config: MindFormerConfig) -> int:
    model = config.model.model_config if config.model else {}
    language = (model.get("llm_model") or {}).get("model_config") or {}
    return next((place["top_k"] for place in (config, model, language) if place.get("top_k") is not None), 0)
