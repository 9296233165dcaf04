"""Every key of this package's classes is in a YAML, where it has a comment, or in docs/yaml.md."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from mindformers_qwenvl.recipes import find
from mindformers_qwenvl.registration import CONFIGS, ESSENTIALS, OTHERS

ROOT = Path(__file__).parents[2]
# Not built from keys of a YAML: the host's own signatures, and a callback that `adapter:` at the top of a YAML adds.
OTHER = {"training.trainer:QwenVLTrainer", "training.adapters:QwenVLAdapterMonitor"}
REGISTERED = {*CONFIGS, *(path for path, *_ in (*ESSENTIALS, *OTHERS))}
CLASSES = sorted(path for path in REGISTERED - OTHER if not path.startswith("host."))
# By the host: what an optimizer updates, what a train step trains.
GIVEN = {"training.optimizer:QwenVLAdamW": {"params"}, "training.step:QwenVLTrainOneStepCell": {"network"}}
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
    assert keys - GIVEN.get(path, set()) - ONE_VALUE - documented == set()
