"""Work-arounds for faults of MindFormers' `PreTrainedModel`."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindformers_qwenvl.generation.settings import generation_config_of, save_generation_config, settings_for
from mindformers_qwenvl.generation.stopping import stop_ids

__all__ = ["FreeBlocks", "OwnGenerationConfig", "PhasePerShape", "PhaseToldOnce", "SaveParameters"]


class OwnGenerationConfig:
    """A base class for networks, before the host's `PreTrainedModel`: `generate()` follows `self.generation_config` if
    that was read from a generation_config.json or set by the user.

    Host: mindformers/generation/text_generator.py, GenerationMixin.generate. Without an argument `generation_config` it
    makes one from the network's configuration, and reads `self.generation_config` only with `use_legacy: False`.
    PreTrainedModel.from_pretrained does not read the file, either. Seen in 1.7-2.1. Can go when the stock `generate()`
    stops after `network.generation_config.max_new_tokens` tokens.
    """

    def generate(
        self,
        input_ids: Any,
        generation_config: Any = None,
        logits_processor: Any = None,
        streamer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the host's. Keywords take precedence over `generation_config`, and that over the model's own settings.

        With `chat_format: chatml` in its own settings, a model also stops at <|im_end|> and <|im_start|>, as in `chat`.
        """
        if generation_config is None and not self.generation_config._from_model_config:
            generation_config = settings_for(self)
            if getattr(self.generation_config, "chat_format", None) == "chatml":
                generation_config.eos_token_id = stop_ids(generation_config, getattr(self.config, "turn_ids", ()))
            if "max_length" in kwargs:  # otherwise max_new_tokens would take precedence
                generation_config.max_new_tokens = None
        return super().generate(input_ids, generation_config, logits_processor, streamer, seed, **kwargs)

    @classmethod
    def from_pretrained_experimental_mode(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As the host's, and reads generation_config.json if there is one."""
        network = super().from_pretrained_experimental_mode(pretrained_model_name_or_path, *args, **kwargs)
        network.generation_config = generation_config_of(pretrained_model_name_or_path) or network.generation_config
        return network


class SaveParameters:
    """A base class for networks, before the host's: `save_pretrained(directory, save_json=True)` saves the weights.

    The key/value cache is left out. The generation_config.json that the network came with is written, too.

    Host: mindformers/models/modeling_utils.py, PreTrainedModel.save_pretrained_experimental_mode. It gives bare tensors
    to mindspore.save_checkpoint, which takes only Parameters in a dict and raises UnboundLocalError. Seen in 1.9-2.1 on
    MindSpore 2.9 and 2.10. Can go when the stock model saves without `state_dict=`.
    """

    def save_pretrained(self, save_directory: str, save_name: str = "mindspore_model", **kwargs: Any) -> None:
        if kwargs.get("save_json") and kwargs.get("state_dict") is None:
            weights = (parameter for parameter in self.get_parameters() if ".cache." not in parameter.name)
            kwargs["state_dict"] = {parameter.name: parameter for parameter in weights}
        super().save_pretrained(save_directory, save_name, **kwargs)
        if not self.generation_config._from_model_config:
            save_generation_config(self.generation_config, save_directory)


class FreeBlocks:
    """A base class for networks: an answer that ends in an error frees its blocks of the key/value cache.

    Host: mindformers/generation/text_generator.py, GenerationMixin.generate, which frees the blocks of an answer only
    at its regular end: after a few errors, or answers interrupted by Ctrl-C, none are left. Seen in 1.7-2.1. Can go
    when the stock `generate()` frees them in a `finally`.
    """

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().generate(*args, **kwargs)
        except BaseException:
            if self.block_mgr:
                self.block_mgr.clear_cache()
            raise


class PhasePerShape:
    """A base class for networks: `generate()` runs the graph that was compiled for the current shape.

    Host: mindformers/generation/text_generator.py, GenerationMixin, which finds a graph for prefill or decoding only by
    the name of its phase, whatever the shape (mindspore/nn/cell.py, Cell._predict): with another batch size an operator
    fails. Seen in 1.7-2.1. Can go when `_set_network_phase` need not be called for each shape.
    """

    def set_phase_of_shape(self, rows: int, columns: int) -> None:
        """Name the phase of the next call, whose input_ids are [rows, columns]."""
        self._set_network_phase(f"{rows}x{columns}")


class PhaseToldOnce:
    """A base class for networks: a call sets the phase of the cells inside only when the phase has changed.

    Host: mindspore/nn/cell.py, Cell.compile_phase: every call of a compiled network sets it in all cells, which are
    some 2,000 in Qwen-VL, for each token of an answer. Seen in MindSpore 2.7-2.10. Can go when the stock setter is
    cheap.
    """

    @property
    def compile_phase(self) -> str | None:
        return self._compile_phase

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self._compile_phase:
            nn.Cell.compile_phase.fset(self, value)
