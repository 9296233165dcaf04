"""What MindFormers' Auto classes need for a Qwen-VL directory, which has the original's names."""

from __future__ import annotations

from typing import Any

from mindformers import AutoConfig, AutoModel

from mindformers_qwenvl.config import QwenConfig, QwenVLConfig
from mindformers_qwenvl.config.original import is_original
from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

__all__ = ["OriginalConfig", "PipelineModel", "QWenTokenizer"]


class OriginalConfig(QwenConfig):
    """`model_type: qwen`, which stands in the original config.json both of Qwen-VL and of the text-only Qwen."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A `QwenVLConfig` from an original config.json, or a `QwenConfig` from one of ours (and the unused kwargs)."""
        if is_original(config_dict):
            return QwenVLConfig.from_dict(config_dict, **kwargs)
        return QwenConfig.from_dict(config_dict, **kwargs)


class QWenTokenizer(QwenVLTokenizer):
    """`tokenizer_class: QWenTokenizer` in the original's tokenizer_config.json: makes a `QwenVLTokenizer`."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> QwenVLTokenizer:
        return QwenVLTokenizer.from_pretrained(*args, **kwargs)


class PipelineModel:
    """Loads the network of `pipeline(task, directory)` by AutoModel. A Qwen-VL then has a key/value cache, since a
    pipeline only generates, unless `model_kwargs={"use_past": False}` says otherwise."""

    @staticmethod
    def from_pretrained(directory: str, **kwargs: Any) -> Any:
        if type(AutoConfig.from_pretrained(directory, **kwargs)) is QwenVLConfig:
            kwargs.setdefault("use_past", True)
        return AutoModel.from_pretrained(directory, **kwargs)
