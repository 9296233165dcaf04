"""What MindFormers' `generate()` asks a network for: the inputs of each step, in few different shapes."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindspore import Tensor

__all__ = ["GenerationInputs", "bucket"]


PYNATIVE = (
    "MindSpore is in PYNATIVE_MODE, which is its default, and answers take much longer than in graph mode: call "
    "mindspore.set_context(mode=mindspore.GRAPH_MODE) before the first answer"
)
_warned: set[str] = set()


def warn_of_pynative_mode() -> None:
    """Log once per process that graph mode is faster, if it is not set."""
    if ms.get_context("mode") == ms.PYNATIVE_MODE and PYNATIVE not in _warned:
        _warned.add(PYNATIVE)
        logger.warning(PYNATIVE)


def bucket(length: int, longest: int) -> int:
    """Columns to compute for rows of up to `length` tokens: a few more, and few different numbers.

    A graph is compiled for each number of columns, so similar lengths share one: multiples of 32, and from 512 on eight
    numbers per doubling.
    """
    step = max(32, 1 << max(length.bit_length() - 4, 0))
    return min(-(-length // step) * step, longest)


class GenerationInputs:
    """The methods of the host's GenerationMixin that a network defines for itself."""

    def update_model_kwargs_before_generate(self, input_ids: np.ndarray, model_kwargs: dict[str, Any]) -> None:
        """Called once per `generate()`: keep the prompts' lengths, which choose the rotary base for the whole answer.

        Raises:
            ValueError: the prompts do not fit into the key/value cache.
        """
        warn_of_pynative_mode()
        lengths = self._valid_length(input_ids)
        blocks = int(np.ceil(lengths / self.config.block_size).sum())
        if self.use_past and blocks > self.config.num_blocks:
            raise ValueError(
                f"prompts of {lengths.tolist()} tokens need {blocks} blocks of block_size={self.config.block_size} in "
                f"the key/value cache, which has num_blocks={self.config.num_blocks}: raise num_blocks, or give fewer "
                "prompts at once"
            )
        model_kwargs["prompt_length"] = Tensor(lengths)
        if model_kwargs.get("images") is not None:
            model_kwargs["images"] = Tensor(model_kwargs["images"], ms.float32)
            model_kwargs["image_context_pos"] = Tensor(model_kwargs["image_context_pos"], ms.int32)

    def prepare_inputs_for_generation(self, input_ids: np.ndarray, **kwargs: Any) -> dict[str, Any]:
        """Called at each step. The host pads `input_ids` to `seq_length` columns, most of which are never needed."""
        lengths = np.asarray(kwargs["valid_length_each_example"], np.int32)
        rows, padded = input_ids.shape
        columns = bucket(int(lengths.max()), padded)
        prefill = kwargs.get("prefill")  # None without a cache
        inputs = {"input_ids": Tensor(input_ids[:, :columns], ms.int32), "prompt_length": kwargs["prompt_length"]}
        if prefill is None:
            inputs["batch_valid_length"] = Tensor(lengths)
        else:
            inputs["batch_valid_length"] = lengths  # the host makes a tensor of it
            slots = kwargs["slot_mapping"]
            # One decoding graph serves all lengths, where a longer block table does not make it read more.
            held = padded if not prefill and self.reads_by_length(rows) else columns
            blocks = -(-held // self.config.block_size)
            inputs["block_tables"] = Tensor(np.ascontiguousarray(kwargs["block_tables"][:, :blocks]))
            if prefill:
                slots = np.ascontiguousarray(slots.reshape(rows, padded)[:, :columns]).reshape(-1)
            inputs["slot_mapping"] = Tensor(slots)
            self.set_phase_of_shape(rows, held)
        if prefill in (None, True) and kwargs.get("images") is not None:
            inputs["images"] = kwargs["images"]
            inputs["image_context_pos"] = kwargs["image_context_pos"]
        return inputs

    def layout_inputs(self, input_ids: Any) -> tuple[Tensor, ...]:
        """Inputs of a prefill with the shape of `input_ids`, from which the host learns how several cards share the
        weights: input_ids, prompt_length, batch_valid_length, and with a cache block_tables and slot_mapping.
        """
        rows, columns = np.shape(input_ids)
        lengths = Tensor(np.full(rows, columns, np.int32))
        inputs = (Tensor(np.asarray(input_ids), ms.int32), lengths, lengths)
        if not self.use_past:
            return inputs
        blocks = -(-columns // self.config.block_size)
        tables = Tensor(np.zeros((rows, blocks), np.int32))
        return (*inputs, tables, Tensor(np.full(rows * columns, -1, np.int32)))

    def set_dynamic_inputs(self, **kwargs: Any) -> None:
        """The host calls this with `is_dynamic: True`, for inputs without a fixed shape. Nothing to do: shapes come in
        buckets here, each with its own graph, so lengths, batch sizes and numbers of images may always change."""

    def add_flags_custom(self, is_first_iteration: bool) -> None:
        """The host flags prefill and decoding graphs on every cell; here the number of columns tells them apart."""

    def _valid_length(self, input_ids: np.ndarray) -> np.ndarray:
        real = np.asarray(input_ids) != self.config.pad_token_id
        return (real * np.arange(1, real.shape[1] + 1)).max(axis=1).astype(np.int32)
