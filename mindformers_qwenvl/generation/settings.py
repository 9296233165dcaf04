"""Settings of an answer: a model's generation_config.json, and what a call overrides.

What the settings do is elsewhere: choosing tokens in sampling.py, where an answer ends in stopping.py.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from mindformers.generation import GenerationConfig

from mindformers_qwenvl.checks import nearest, whole
from mindformers_qwenvl.files import read_json, replacing
from mindformers_qwenvl.generation.sampling import check_sampling
from mindformers_qwenvl.generation.stopping import end_ids

__all__ = ["generation_config_of", "save_generation_config", "settings_for"]

FILE = "generation_config.json"
# Those of the published chat model, for networks without a generation_config.json.
DEFAULTS = {"chat_format": "chatml", "max_window_size": 6144, "max_new_tokens": 512}
CHANGEABLE = (
    *("max_new_tokens", "max_window_size", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("seed", "chat_format", "eos_token_id", "min_new_tokens"),
)


def generation_config_of(directory: str | os.PathLike[str]) -> GenerationConfig | None:
    """The generation_config.json of a model's directory; None if there is none.

    Raises:
        ValueError: it is not JSON; gives line and column.
    """
    if not (Path(directory) / FILE).is_file():
        return None
    read_json(Path(directory) / FILE)  # the host's message does not say where the fault is
    return GenerationConfig.from_pretrained(str(directory))


def save_generation_config(config: GenerationConfig, directory: str | os.PathLike[str]) -> None:
    """Write generation_config.json, with the settings that differ from the host's defaults."""
    usual = GenerationConfig().to_dict()
    settings = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and (name not in usual or value != usual[name])
    }
    with replacing(Path(directory) / FILE, "w") as file:
        file.write(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def settings_for(network: Any, given: GenerationConfig | None = None, **changes: Any) -> GenerationConfig:
    """A copy of `given`, or of the network's own configuration, with `changes` (None: no change), checked and complete.

    Args:
        network: a `QwenVL`.
        given: used instead of `network.generation_config`.
        **changes: see CHANGEABLE; `seed` is a whole number, or a list of them. A `temperature` of 0 is greedy search.

    Raises:
        TypeError: a change has a name that is not in CHANGEABLE.
        ValueError: a value is out of its range; names the setting, the range and the value.
    """
    unknown = sorted(set(changes) - set(CHANGEABLE))
    if unknown:
        hint = (
            "; chat_stream gives an answer while it is written"
            if "stream" in unknown
            else nearest(unknown[0], CHANGEABLE)
        )
        raise TypeError(f"unknown arguments {', '.join(unknown)}{hint}; expected some of {', '.join(CHANGEABLE)}")
    config = copy.deepcopy(network.generation_config if given is None else given)
    for name, value in {**DEFAULTS, "seed": None}.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    for name, value in changes.items():
        if value is not None:
            setattr(config, name, value)
    config.use_past = network.config.use_past
    if config.pad_token_id is None:
        config.pad_token_id = network.config.pad_token_id
    eos = config.eos_token_id if config.eos_token_id not in (None, []) else network.config.eos_token_id
    config.eos_token_id = end_ids(eos)
    config.num_return_sequences = 1  # a conversation has one answer, whatever a generation_config.json says
    whole("max_new_tokens", config.max_new_tokens)
    whole("max_window_size", config.max_window_size, 0)
    whole("min_new_tokens", getattr(config, "min_new_tokens", None), 0, optional=True)
    if isinstance(config.seed, list | tuple):
        for number, seed in enumerate(config.seed):
            whole(f"seed[{number}]", seed, 0)
    else:
        whole("seed", config.seed, 0, optional=True)
    if config.chat_format not in ("chatml", "raw"):
        raise ValueError(f"chat_format must be 'chatml' or 'raw', got {config.chat_format!r}")
    check_sampling(config)
    return config
