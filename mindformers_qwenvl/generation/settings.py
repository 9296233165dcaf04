"""How answers are chosen: generation_config.json of a model, and what a call says otherwise."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.generation import GenerationConfig

from mindformers_qwenvl.files import replacing

__all__ = ["generation_config_of", "save_generation_config", "settings_for", "stop_ids", "stop_sequences"]

FILE = "generation_config.json"
# Of the published chat model; a network that was made from a YAML alone has no other.
DEFAULTS = {"chat_format": "chatml", "max_window_size": 6144, "max_new_tokens": 512}
CHANGEABLE = (
    *("max_new_tokens", "max_window_size", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("seed", "chat_format", "eos_token_id", "min_new_tokens"),
)


def generation_config_of(directory: str | os.PathLike[str]) -> GenerationConfig | None:
    """The generation_config.json of a model's directory; None if there is none.

    Raises:
        OSError: it is no JSON.
    """
    if not (Path(directory) / FILE).is_file():
        return None
    return GenerationConfig.from_pretrained(str(directory))


def save_generation_config(config: GenerationConfig, directory: str | os.PathLike[str]) -> None:
    """Write generation_config.json: what differs from the host's defaults."""
    usual = GenerationConfig().to_dict()
    settings = {
        name: value
        for name, value in config.to_dict().items()
        if not name.startswith("_") and (name not in usual or value != usual[name])
    }
    with replacing(Path(directory) / FILE, "w") as file:
        file.write(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def settings_for(network: Any, given: GenerationConfig | None = None, **changes: Any) -> GenerationConfig:
    """A copy of `given`, or of the network's own, with `changes` (None: no change), checked and complete.

    A temperature of 0 means the likeliest token each time.

    Args:
        network: a `QwenVL`.
        given: goes in the place of `network.generation_config`.
        **changes: see CHANGEABLE; `seed` is a number, or a list of numbers.

    Raises:
        TypeError: a change of another name.
        ValueError: a value makes no sense.
    """
    unknown = sorted(set(changes) - set(CHANGEABLE))
    if unknown:
        hint = "; for an answer as it is written there is chat_stream" if "stream" in unknown else ""
        raise TypeError(f"no such argument: {', '.join(unknown)}; there are {', '.join(CHANGEABLE)}{hint}")
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
    config.eos_token_id = [eos] if isinstance(eos, int) else list(eos)
    _check(config)
    if config.temperature == 0:
        config.do_sample, config.temperature = False, 1.0
    return config


def _check(config: GenerationConfig) -> None:
    for name, fits, what in (
        ("max_new_tokens", _whole(config.max_new_tokens, 1), "a whole number above 0"),
        ("max_window_size", _whole(config.max_window_size, 0), "a whole number"),
        ("top_k", config.top_k is None or _whole(config.top_k, 0), "a whole number; 0 means off"),
        ("top_p", config.top_p is None or _number(config.top_p, 0, 1), "a probability from 0 to 1; 1 means off"),
        ("temperature", config.temperature is None or _number(config.temperature, 0), "a number, 0 or more"),
        (
            "repetition_penalty",
            config.repetition_penalty is None or (_number(config.repetition_penalty, 0) and config.repetition_penalty),
            "a number above 0; 1 means off",
        ),
        ("seed", all(_whole(seed, 0) for seed in _seed_parts(config.seed)), "a whole number, 0 or more"),
        ("chat_format", config.chat_format in ("chatml", "raw"), "'chatml' or 'raw'"),
    ):
        if not fits:
            raise ValueError(f"{name} is {what}, got {getattr(config, name)!r}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _seed_parts(seed: Any) -> Sequence[Any]:
    return () if seed is None else seed if isinstance(seed, list | tuple) else (seed,)


def stop_ids(config: GenerationConfig, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: end of text, and in ChatML those that end or begin a turn."""
    turns = [tokenizer.im_end_id, tokenizer.im_start_id] if config.chat_format == "chatml" else []
    return [*config.eos_token_id, *(i for i in turns if i not in config.eos_token_id)]


def stop_sequences(config: GenerationConfig, given: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    """Sequences of ids after which an answer ends: `given`, and `stop_words_ids` of the configuration.

    Raises:
        ValueError: not lists of ids.
    """
    sequences = [*(given or ()), *(getattr(config, "stop_words_ids", None) or ())]
    for sequence in sequences:
        if isinstance(sequence, str | int) or not len(sequence) or not all(_whole(int(i), 0) for i in sequence):
            raise ValueError(f"stop_words_ids is a list of lists of token ids, got the item {sequence!r}")
    return [[int(i) for i in sequence] for sequence in sequences]
