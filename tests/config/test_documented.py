"""Every key of this package's classes is in a YAML, where it has a comment, or in docs/yaml.md."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from mindformers_qwenvl.recipes import find

ROOT = Path(__file__).parents[2]
CLASSES = {
    "training.optimizer:QwenVLAdamW": {"params"},
    "training.monitor:QwenVLMonitor": set(),
    "training.step:QwenVLTrainOneStepCell": {"network"},
    "datasets.loader:QwenVLDataLoader": set(),
    "data.template:QwenVLContentTransformTemplate": set(),
    "data.processor:QwenVLProcessor": set(),
    "data.image_processor:QwenVLImageProcessor": set(),
    "data.normalise:QwenVLBatchNormalize": set(),
    "data.tokenizer:QwenVLTokenizer": set(),
    "config:QwenVLConfig": set(),
    "config:QwenConfig": set(),
    "config:QwenVLVisionConfig": set(),
}  # and what is not a key: the host gives it
# Of the host's signatures, without a choice: one value works, or it is set by `parallel_config` at the top of a YAML.
ONE_VALUE = {"vstack_columns", "is_hwc", "swap", "parallel_config"}


@pytest.mark.parametrize("path", CLASSES)
def test_keys_are_documented(path):
    module, _, name = path.partition(":")
    cls = getattr(import_module(f"mindformers_qwenvl.{module}"), name)
    keys = {
        key
        for key, parameter in inspect.signature(cls.__init__).parameters.items()
        if key != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    yamls = "".join(find(name).read_text(encoding="utf-8") for name in ("finetune_qwenvl_9.6b", "predict_qwenvl_9.6b"))
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs/yaml.md").read_text(encoding="utf-8")))
    documented |= set(re.findall(r"(\w+):", yamls))
    assert keys - CLASSES[path] - ONE_VALUE - documented == set()
