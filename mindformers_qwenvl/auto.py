"""What MindFormers' Auto classes meet in a Qwen-VL directory: the original's names, and no file for a processor."""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.config import QwenConfig, QwenVLConfig, from_original
from mindformers_qwenvl.data.processor import QwenVLImageProcessor, QwenVLProcessor
from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

__all__ = ["OriginalConfig", "QWenTokenizer", "processor_for"]


class OriginalConfig(QwenConfig):
    """`model_type: qwen`, which the original's config.json says of Qwen-VL and of the text-only Qwen alike."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A `QwenVLConfig` from an original config.json, a `QwenConfig` from one of ours (and the unused kwargs)."""
        if "visual" in config_dict:
            return QwenVLConfig.from_dict(from_original(config_dict), **kwargs)
        return QwenConfig.from_dict(config_dict, **kwargs)


class QWenTokenizer(QwenVLTokenizer):
    """`tokenizer_class: QWenTokenizer` of the original's tokenizer_config.json: gives a `QwenVLTokenizer`."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> QwenVLTokenizer:
        return QwenVLTokenizer.from_pretrained(*args, **kwargs)


def processor_for(config: QwenVLConfig, tokenizer: QwenVLTokenizer, image_processor: Any = None) -> QwenVLProcessor:
    """The processor whose images fit the network of `config`."""
    if image_processor is None:
        image_processor = QwenVLImageProcessor(image_size=config.vision.image_size)
    return QwenVLProcessor(image_processor=image_processor, tokenizer=tokenizer)
