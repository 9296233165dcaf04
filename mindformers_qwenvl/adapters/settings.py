"""adapter_config.json: what peft writes beside an adapter's tensors, checked. Pure Python.

Source: peft's LoraConfig (0.3 to 0.17). An adapter may be downloaded: its settings are checked like any other input,
and a kind of adapter that this package would compute wrongly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_number, is_whole
from mindformers_qwenvl.config.original import ADAPTER as CONFIG_FILE
from mindformers_qwenvl.files import read_json

__all__ = [
    "CONFIG_FILE",
    "TARGETS",
    "AdapterSettings",
    "as_pet_config",
    "from_pet_config",
    "is_saved",
    "matches",
    "read_settings",
]

MOST_RANK = 1 << 14
TARGETS = ("c_attn", "attn.c_proj", "w1", "w2")  # of the original's finetune.py
ALL = "all-linear"
# The keys of `model_config.pet_config`, and their defaults.
_PET_KEYS = {
    "pet_type": "lora",
    "lora_rank": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": TARGETS,
    "modules_to_save": (),
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "param_init_type": "float32",
}
# Ways to initialise an adapter that leave the base alone. The others (pissa, olora, corda, loftq) also change the base
# weights, so such an adapter fits only the base it was trained on.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_NOT_SUPPORTED = {
    "layer_replication": "layers used more than once",
    "lora_bias": "biases in lora_B",
    "megatron_config": "Megatron's layers",
    "trainable_token_indices": "single trained tokens",
    "target_parameters": "parameters without a layer",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
}
# A pattern from a file is matched against some hundreds of names: one that could take forever is refused.
_PATTERN = re.compile(r"[\w.\\^$*+?|()\[\]-]{1,200}")
_COSTLY = re.compile(r"\)[*+?{]|(?:[*+?].*){4}")


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of a LoRA adapter.

    Attributes:
        rank, alpha: of every target that the two patterns do not name.
        rank_pattern, alpha_pattern: a target's full name, its end, or a regular expression for them -> number.
        rslora: the scale is alpha / sqrt(rank), not alpha / rank.
        targets: ends of module names, or one regular expression.
        modules_to_save: ends of the names of modules that are trained whole.
        base: what `base_model_name_or_path` says.
        notes: settings that have no effect here, in words.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] | str = ()
    modules_to_save: tuple[str, ...] = ()
    base: str | None = None
    notes: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        return _by_pattern(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        return _by_pattern(self.alpha_pattern, module, self.alpha)

    def scale(self, module: str) -> float:
        """The factor of B A for the original's module `module`."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)

    def as_dict(self) -> dict[str, Any]:
        """The fields of peft's adapter_config.json; any peft from 0.10 on reads them."""
        alpha = int(self.alpha) if float(self.alpha).is_integer() else self.alpha
        return {
            "alpha_pattern": dict(self.alpha_pattern),
            "auto_mapping": None,
            "base_model_name_or_path": self.base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "layer_replication": None,
            "layers_pattern": None,
            "layers_to_transform": None,
            "loftq_config": {},
            "lora_alpha": alpha,
            "lora_dropout": self.dropout,
            "megatron_config": None,
            "megatron_core": "megatron.core",
            "modules_to_save": list(self.modules_to_save) or None,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": dict(self.rank_pattern),
            "revision": None,
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets),
            "task_type": "CAUSAL_LM",
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        }


def matches(module: str, wanted: Sequence[str] | str) -> bool:
    """Whether the module's full name is one of `wanted`, or ends in one, as peft matches: whole parts between dots.

    A single string is a regular expression that the whole name must match, or `all-linear`: all layers but the head.
    """
    if wanted == ALL:
        return module != "lm_head"
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == end or module.endswith(f".{end}") for end in wanted)


def is_saved(tensor: str, wanted: Sequence[str]) -> bool:
    """Whether the original's `tensor` is of a module that `wanted` (modules_to_save) names, or of one inside it."""
    parts = tensor.split(".")
    return bool(wanted) and any(matches(".".join(parts[:length]), wanted) for length in range(1, len(parts)))


def from_pet_config(given: Mapping[str, Any]) -> AdapterSettings:
    """The settings in a YAML's `model_config.pet_config`, whose defaults are those of the original's finetune.py.

    Raises:
        ValueError: a key is unknown, or its value is not valid.
    """
    if unknown := [key for key in given if key not in _PET_KEYS]:
        raise ValueError(
            f"pet_config: unknown {', '.join(unknown)}; its keys are {', '.join(_PET_KEYS)} (those of MindFormers' own "
            "LoRA that are missing here have no counterpart in peft's files)"
        )
    found = {**_PET_KEYS, **{key: value for key, value in given.items() if value is not None}}
    try:
        if str(found["pet_type"]).lower() != "lora":
            raise ValueError(f"pet_type is {_shown(found['pet_type'])}; Qwen-VL supports only lora")
        targets = found["target_modules"]
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"target_modules {_shown(targets)} is not a regular expression: {error}") from None
        return AdapterSettings(
            rank=_rank(found["lora_rank"], "lora_rank"),
            alpha=_alpha(found["lora_alpha"], "lora_alpha"),
            dropout=_dropout(found["lora_dropout"]),
            rslora=_switch(found, "use_rslora"),
            rank_pattern=_patterns(found, "rank_pattern", _rank),
            alpha_pattern=_patterns(found, "alpha_pattern", _alpha),
            targets=targets if isinstance(targets, str) else _names(targets, "target_modules"),
            modules_to_save=_names(found["modules_to_save"], "modules_to_save"),
        )
    except ValueError as error:
        raise ValueError(f"pet_config: {error}") from None


def as_pet_config(settings: AdapterSettings) -> dict[str, Any]:
    """The inverse of `from_pet_config`."""
    return {
        "pet_type": "lora",
        "lora_rank": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": settings.targets if isinstance(settings.targets, str) else list(settings.targets),
        "modules_to_save": list(settings.modules_to_save),
        "use_rslora": settings.rslora,
        "rank_pattern": dict(settings.rank_pattern),
        "alpha_pattern": dict(settings.alpha_pattern),
    }


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the module's name, or the end of it after a dot."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return otherwise


def read_settings(path: Path) -> AdapterSettings:
    """The settings in the file `path`, or in adapter_config.json of the folder `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or describes an adapter of another kind; the message names the setting.
    """
    path = path / CONFIG_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; an adapter is a folder with {CONFIG_FILE} and its tensors")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object of settings, got {type(content).__name__}")
    try:
        return _settings(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _settings(content: Mapping[str, Any]) -> AdapterSettings:
    kind = content.get("peft_type")
    if not isinstance(kind, str) or kind.upper() != "LORA":
        raise ValueError(f"peft_type is {_shown(kind)}; only LORA adapters are read")
    if content.get("bias", "none") not in ("none", None):
        raise ValueError(
            f"bias is {_shown(content['bias'])}; only adapters that leave the biases alone ('none') are read"
        )
    for key, what in _NOT_SUPPORTED.items():
        if content.get(key):
            raise ValueError(f"{key} is {_shown(content[key])}; not supported: {what}")
    start = content.get("init_lora_weights", True)
    name = start.partition("_niter")[0].lower() if isinstance(start, str) else start
    if not any(name is known or (isinstance(name, str) and name == known) for known in _HARMLESS_STARTS):
        raise ValueError(
            f"init_lora_weights is {_shown(start)}: such an adapter belongs to a base model that was changed with it; "
            "have peft convert it (`path_initial_model_for_weight_conversion` of save_pretrained) and give the result"
        )
    notes = []
    if _switch(content, "fan_in_fan_out"):
        # peft too sets it to False, with a warning, for linear layers, and all of Qwen-VL's are linear.
        notes.append("fan_in_fan_out: true is for transposed layers, which Qwen-VL does not have: ignored, as by peft")
    base = content.get("base_model_name_or_path")
    targets = content.get("target_modules")
    return AdapterSettings(
        rank=_rank(content.get("r"), "r"),
        alpha=_alpha(content.get("lora_alpha"), "lora_alpha"),
        dropout=_dropout(content.get("lora_dropout") or 0.0),
        rslora=_switch(content, "use_rslora"),
        dora=_switch(content, "use_dora"),
        rank_pattern=_patterns(content, "rank_pattern", _rank),
        alpha_pattern=_patterns(content, "alpha_pattern", _alpha),
        targets=targets if isinstance(targets, str) else _names(targets, "target_modules"),
        modules_to_save=_names(content.get("modules_to_save"), "modules_to_save"),
        base=base if isinstance(base, str) else None,
        notes=tuple(notes),
    )


def _shown(value: object) -> str:
    return f"{json.dumps(value, default=repr):.60}"


def _rank(value: Any, key: str) -> int:
    if not is_whole(value, 1, MOST_RANK):
        raise ValueError(f"{key} is {_shown(value)}, expected a whole number from 1 to {MOST_RANK}")
    return int(value)


def _alpha(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or not is_number(value):
        raise ValueError(f"{key} is {_shown(value)}, expected a number")
    return value


def _dropout(value: Any) -> float:
    if not is_number(value, 0, below=1):
        raise ValueError(f"lora_dropout is {_shown(value)}, expected a number from 0 to below 1")
    return float(value)


def _switch(content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key) or False
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {_shown(value)}, expected true or false")
    return value


def _names(value: Any, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} is {_shown(value)}, expected a list of module names")
    return tuple(value)


def _patterns(content: Mapping[str, Any], key: str, number: Callable[[Any, str], Any]) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {_shown(value)}, expected an object of module names")
    for pattern in value:
        try:
            if not _PATTERN.fullmatch(pattern) or _COSTLY.search(pattern):
                raise re.error("only short patterns without nested repetition are accepted")
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{key} has the key {_shown(pattern)}, which is not a module name or pattern ({error})"
            ) from None
    return {pattern: number(given, f"{key}[{pattern!r}]") for pattern, given in value.items()}
