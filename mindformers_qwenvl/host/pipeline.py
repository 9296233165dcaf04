"""Work-arounds for faults of MindFormers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.pipeline import MultiModalToTextPipeline
from mindformers.tools.logger import logger

from mindformers_qwenvl.adapters.switch import AdapterSwitch
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.data.processor import QwenVLProcessor
from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer
from mindformers_qwenvl.generation.arguments import check_names
from mindformers_qwenvl.host.context import weights_at_hand
from mindformers_qwenvl.text.vocabulary_file import check_model
from mindformers_qwenvl.weights.finite import checked

__all__ = ["ProcessorPipeline"]

# Arguments besides those of `generate()`: of the host's Pipeline, of post-processing, and those its trainer passes.
OF_PIPELINE = (
    *("batch_size", "skip_special_tokens", "processor", "audio_processor", "feature_extractor"),
    *("is_full_config", "save_file"),
)


def check_processor(network: Any, processor: Any) -> None:
    """Raise ValueError if the processor has the vocabulary of another model."""
    config, tokenizer = getattr(network, "config", None), getattr(processor, "tokenizer", None)
    if isinstance(config, QwenVLConfig) and isinstance(tokenizer, QwenVLTokenizer):
        check_model(tokenizer.eod_id, tokenizer.vocab_file, config.image_start_id)


class ProcessorPipeline(MultiModalToTextPipeline):
    """The stock pipeline, but it finds its processor: that of the network's directory, or one made from the parts that
    `pipeline()` passes.

    Host: mindformers/pipeline/pipeline.py builds tokenizer and image processor and passes them on, but
    mindformers/pipeline/multi_modal_to_text_generation_pipeline.py needs a processor and raises ValueError. Seen in
    1.6-2.1. Can go when `pipeline("multi_modal_to_text_generation", model=...)` needs no `processor=`.

    The same file drops what a call says about the answer, as in `pipe(queries, max_new_tokens=8)`; here that reaches
    `generate()`, as it does in text_generation_pipeline.py. And mindformers/pipeline/base_pipeline.py saves no
    processor, but a YAML, which `pipeline(task, directory)` does not read; here config.json and all other files that it
    reads are saved. Seen in 1.7-2.1. Can go when the stock pipeline does so.
    """

    def __init__(self, model: Any, processor: Any = None, tokenizer: Any = None, image_processor: Any = None, **kwargs):
        network = getattr(model, "predict_network", model)
        if isinstance(network, AdapterSwitch):
            self._warn_of_nan(network)
            network.load_configured_adapters()  # after the weights, since some adapters replace a part of them
        if processor is None:
            processor = self._processor_of(network, tokenizer, image_processor)
        if processor is not None:
            check_processor(network, processor)
            tokenizer, image_processor = tokenizer or processor.tokenizer, image_processor or processor.image_processor
        super().__init__(model, processor=processor, tokenizer=tokenizer, image_processor=image_processor, **kwargs)

    @staticmethod
    def _warn_of_nan(network: Any) -> None:
        """Warn of NaN in weights that the host has loaded on its own, as run_mode predict does. Only on a CPU:
        elsewhere gigabytes would have to be copied back from the device."""
        if not network.__dict__.get("not_finite") and weights_at_hand():
            network.not_finite = checked(network).sentence()
            if network.not_finite:
                logger.warning("%s", network.not_finite)

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
        check_names(parameters, "pipeline()", OF_PIPELINE)
        about_the_answer = {name: value for name, value in parameters.items() if name not in OF_PIPELINE}
        if about_the_answer.get("num_return_sequences") not in (None, 1):
            raise ValueError("pipeline(): num_return_sequences must be 1, as a pipeline gives one answer to each query")
        if "skip_special_tokens" in parameters:
            after["skip_special_tokens"] = parameters["skip_special_tokens"]
        return before, about_the_answer, after

    def save_pretrained(self, save_directory: str, save_name: str = "mindspore_model") -> None:
        """Write what `pipeline(task, save_directory)` reads: weights, JSON files and the vocabulary."""
        self.network.save_pretrained(save_directory, save_name, save_json=True)
        self.processor.save_pretrained(save_directory, save_name)
