"""The trainer that YAMLs call `MultiModalToTextGenerationTrainer`: the host's, with evaluation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.tools.logger import logger
from mindformers.tools.register import MindFormerConfig
from mindformers.tools.utils import get_output_root_path

from mindformers_qwenvl.checks import nearest, whole
from mindformers_qwenvl.evaluate.data import read_samples
from mindformers_qwenvl.evaluate.evaluation import Evaluation
from mindformers_qwenvl.evaluate.prompts import Asking
from mindformers_qwenvl.evaluate.report import lines_for_people
from mindformers_qwenvl.evaluate.tasks import find_task
from mindformers_qwenvl.host.callbacks import unwrapped
from mindformers_qwenvl.host.loaded_network import every_batch, network_and_processor, take_checkpoint
from mindformers_qwenvl.host.moved import load_path
from mindformers_qwenvl.host.trainer import FullConfigTrainer
from mindformers_qwenvl.training.validation import HeldOutLoss, Validation, full_batches

__all__ = ["QwenVLTrainer"]

STEP_INTERVAL = 100  # the host's default
PATHS = ("data", "image_dir", "annotations", "train_data", "output")
OPTIONS = (
    *("task", *PATHS, "batch_size", "limit", "few_shot", "seed"),
    *("prompt", "chat_format", "max_new_tokens", "as_published"),
)


class QwenVLTrainer(FullConfigTrainer):
    """Adds to the stock trainer what it lacks for evaluation.

    Host: mindformers/trainer/multi_modal_to_text_generation/multi_modal_to_text_generation.py, `evaluate`, raises
    NotImplementedError. Its `do_eval` averages over batches, whatever their number of label tokens, leaves out an
    incomplete batch, keeps no best step, and writes only to the log. Seen in 1.7-2.1. Can go when the stock trainer
    evaluates a network that returns its loss.

    - `run_mode: eval`, `Trainer.evaluate`: the loss over `eval_dataset`; with a section `eval_task:`, a benchmark of
      `mindformers_qwenvl.evaluate` (its keys are the options of `mindformers-qwenvl evaluate`).
    - `do_eval: True`, `eval_step_interval`: see `Validation`.

    Attributes:
        findings: a few lines about the last evaluation, to show.
    """

    findings: Sequence[str] = ()

    def set_config(self, config: Any = None, is_full_config: bool = False) -> Any:
        config = super().set_config(config, is_full_config)
        if config.get("eval_dataset"):
            _complete(config)
        if config.get("do_eval"):
            if not config.get("eval_dataset"):
                raise ValueError("do_eval: True needs eval_dataset and eval_dataset_task, with held-out samples")
            interval = config.get("eval_step_interval")
            self._interval = STEP_INTERVAL if interval is None else whole("eval_step_interval", interval, 1)
            config.do_eval = False  # `Validation` does it; the host would ask for a `metric` and evaluate again
        return config

    def sort_callbacks(self, default_callbacks: list) -> list:
        """The callbacks of a training. The host calls this when it has collected all of them."""
        callbacks = super().sort_callbacks(default_callbacks)
        if getattr(self, "_interval", None):
            # First, so that QwenVLMonitor finds the loss when it writes the row of the step.
            callbacks.insert(0, Validation(self.create_eval_dataset, lambda: unwrapped(self.network), self._interval))
        return callbacks

    def create_eval_dataset(self, default_args: dict | None = None) -> Any:
        for section in (self.config.eval_dataset, (self.config.eval_dataset_task or {}).get("dataset_config")):
            if section:
                section.drop_remainder = False  # `full_batches` fills the last one up
        try:
            dataset = every_batch(super().create_eval_dataset(default_args))
        except ValueError as error:
            if "got 0" not in str(error):  # the error of `take`: there is no whole batch
                raise
            raise ValueError(
                f"eval_dataset has fewer samples than a batch (batch_size={self.config.eval_dataset.batch_size}): set "
                "a smaller runner_config.batch_size, or hold out more samples"
            ) from error
        if not dataset.get_dataset_size():
            raise ValueError("eval_dataset: there are no samples")
        return full_batches(dataset, self.config.eval_dataset.batch_size)

    def evaluate(
        self,
        config: Any = None,
        network: Any = None,
        dataset: Any = None,
        callbacks: Any = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ) -> float | dict[str, Any]:
        """The loss over `eval_dataset`; or, with `eval_task:` in the YAML, the summary of that task.

        Args:
            config: configuration of the run.
            network, dataset, callbacks: instead of those of the configuration.
            compute_metrics: not used; the loss is the metric.
        """
        config = self.set_config(config, kwargs.get("is_full_config", False))
        take_checkpoint(config)
        if config.get("eval_task"):
            return self._task(config, network)
        if not config.get("eval_dataset"):
            raise ValueError("run_mode: eval needs the sections eval_dataset and eval_dataset_task, or eval_task")
        config.runner_config.sink_mode = False  # the batch must be seen: its label tokens are counted
        loss = HeldOutLoss()
        found = [*(callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []), loss]
        self.evaluate_process(
            config=config, network=network, dataset=dataset, callbacks=found, compute_metrics={"loss": loss}, **kwargs
        )
        self.findings = [f"evaluation: loss {(value := loss.eval()):.5f} over {loss.tokens} label tokens"]
        logger.info("%s", self.findings[0])
        return value

    def _task(self, config: Any, network: Any) -> dict[str, Any]:
        options = dict(config.eval_task)
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown or not options.get("task") or not options.get("data"):
            raise ValueError(
                f"eval_task: {f'there is no key {unknown[0]}' if unknown else 'needs the keys task and data'}"
                f"{nearest(unknown[0], OPTIONS) if unknown else ''}; "
                f"the keys are {', '.join(OPTIONS)}"
            )
        task, split = find_task(options["task"])
        paths = {name: Path(options[name]) if options.get(name) else None for name in PATHS}
        loaded = read_samples(task, paths["data"], paths["image_dir"], split=split, annotations=paths["annotations"])
        examples = ()
        if paths["train_data"]:
            examples = read_samples(task, paths["train_data"], paths["image_dir"], split="train").samples
        chat = {None: loaded.conversations or task.chat, "chatml": True, "raw": False}[options.get("chat_format")]
        shown = {name: options[name] for name in ("prompt", "few_shot", "seed") if options.get(name)}
        network, processor = network_and_processor(self, config, network)
        template = processor.template
        result = Evaluation(
            task=task,
            split=split,
            loaded=loaded,
            asking=Asking.of(task, chat=chat, examples=examples, system=template.layout["system_message"], **shown),
            root=paths["image_dir"] or (paths["data"] if paths["data"].is_dir() else paths["data"].parent),
            output=paths["output"] or Path(get_output_root_path()) / "evaluate" / options["task"],
            config=network.config,
            network=lambda blocks: network,
            tokenizer=template.tokenizer,
            transform=template.image_transform,
            said={"data": str(paths["data"].resolve()), "model": load_path(config)},
            **{
                name: options[name]
                for name in ("batch_size", "limit", "max_new_tokens", "as_published")
                if name in options
            },
        ).run()
        self.findings = lines_for_people(result.summary) if result.summary else []
        for line in self.findings:
            logger.info("%s", line)
        return result.summary


def _complete(config: Any) -> None:
    """Fill in `eval_dataset` from `train_dataset`: it need only say what differs, such as the file. It is not shuffled.

    If `train_dataset` holds out a part of its file (`split`), that part is evaluated, unless another file is named.
    """
    if config.get("train_dataset") and not config.eval_dataset.get("modal_to_text_transform"):
        own = config.eval_dataset.get("data_loader") or {}
        config.eval_dataset = _merged(config.train_dataset, config.eval_dataset)
        loader = config.eval_dataset.data_loader
        loader.shuffle = False
        if loader.get("split") and "split" not in own:
            other_file = own.get("annotation_file") not in (None, "", config.train_dataset.data_loader.annotation_file)
            loader.held_out = not other_file
            loader.split = None if other_file else loader.split
    task = config.get("eval_dataset_task") or {"type": config.train_dataset_task.type}
    config.eval_dataset_task = MindFormerConfig(**{**task, "dataset_config": config.eval_dataset})


def _merged(base: Any, changes: Any) -> Any:
    """A copy of the section `base` with `changes` made to it."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        merged[key] = (
            _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged
