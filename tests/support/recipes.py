"""The shipped YAMLs in tests: their names, their values now and in version 0.1, and sizes to build them at."""

from __future__ import annotations

import copy
import json
from typing import Any

from mindformers_qwenvl.recipes import find, shipped
from mindformers_qwenvl.recipes import read as read_recipe
from tests.support.golden import GOLDEN

ALL = shipped()
FINETUNE = [name for name in ALL if name.startswith("finetune")]
PREDICT = [name for name in ALL if name.startswith("predict")]
EARLIER_STAGES = ["finetune_qwenvl_9.6b_stage1", "finetune_qwenvl_9.6b_stage2"]
LORA = [name for name in ALL if "_lora" in name]
# Of the published sizes, and of the published stage (3); all weights of a part learn, or none.
PUBLISHED = [name for name in ALL if "9.6b" in name and name not in (*EARLIER_STAGES, *LORA)]
BASE = "finetune_qwenvl_9.6b"
OVERLAYS = [name for name in FINETUNE if name.startswith(f"{BASE}_") and name not in LORA]
WHOLE = [name for name in ALL if name not in (*OVERLAYS, *LORA)]

SMALL_VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
}
SMALL_LLM = {
    "hidden_size": 128,
    "num_layers": 1,
    "num_heads": 1,
    "kv_channels": 128,
    "vocab_size": 1024,
    "intermediate_size": 96,
    "seq_length": 64,
    "num_blocks": 8,
}


def read(name: str) -> dict[str, Any]:
    """The values of a shipped YAML, with those of its base."""
    return read_recipe(find(name))


def get(settings: Any, key: str) -> Any:
    """The value of `a.b.0.c`; digits are places in a list."""
    for part in key.split("."):
        if isinstance(settings, list):
            settings = settings[int(part)]
            continue
        assert part in settings, f"{key}: no {part!r}"
        settings = settings[part]
    return settings


def values_of_0_1() -> dict[str, dict[str, Any]]:
    """Of each YAML, what version 0.1 had in it; see tests/golden/README.md."""
    values = json.loads((GOLDEN / "recipes/values-0.1.json").read_text(encoding="utf-8"))
    for name, differences in values.pop("differences").items():
        values[name] = copy.deepcopy(values[BASE])
        for key, value in differences.items():
            section, _, last = key.rpartition(".")
            get(values[name], section)[last] = value
    return values
