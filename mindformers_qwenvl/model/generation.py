"""What MindFormers' `generate()` asks of the network: inputs of each step, in few different shapes."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

__all__ = ["GenerationInputs", "bucket"]


def bucket(length: int, longest: int) -> int:
    """Columns to compute for rows of up to `length` tokens: at most an eighth more, and few different numbers.

    A graph is compiled for each number of columns, so lengths share one; eight numbers to each doubling.
    """
    step = max(32, 1 << max(length.bit_length() - 4, 0))
    return min(-(-length // step) * step, longest)


class GenerationInputs:
    """The two methods of the host's GenerationMixin that a network defines for itself."""

    def update_model_kwargs_before_generate(self, input_ids: np.ndarray, model_kwargs: dict[str, Any]) -> None:
        """Called once a `generate()`: keep the prompt's lengths, which choose the rotary base for the whole answer."""
        model_kwargs["prompt_length"] = self._valid_length(input_ids)

    def prepare_inputs_for_generation(self, input_ids: np.ndarray, **kwargs: Any) -> dict[str, Tensor]:
        """Called at each step; the host pads `input_ids` to `seq_length` columns, of which most are never needed."""
        lengths = kwargs["valid_length_each_example"]
        columns = bucket(int(max(lengths)), input_ids.shape[-1])
        inputs = {
            "input_ids": Tensor(input_ids[:, :columns], ms.int32),
            "prompt_length": Tensor(kwargs["prompt_length"], ms.int32),
            "batch_valid_length": Tensor(lengths, ms.int32),
        }
        if kwargs.get("images") is not None:
            inputs["images"] = Tensor(kwargs["images"], ms.float32)
            inputs["image_context_pos"] = Tensor(kwargs["image_context_pos"], ms.int32)
        return inputs

    def _valid_length(self, input_ids: np.ndarray) -> np.ndarray:
        real = np.asarray(input_ids) != self.config.pad_token_id
        return (real * np.arange(1, real.shape[1] + 1)).max(axis=1).astype(np.int32)
