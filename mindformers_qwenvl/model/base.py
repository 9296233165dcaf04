"""The base class of the networks that generate: MindFormers' `PreTrainedModel`, with what this package adds to it."""

from __future__ import annotations

from typing import Any, ClassVar

from mindformers.models.modeling_utils import PreTrainedModel
from mindspore import Tensor

from mindformers_qwenvl.generation.arguments import GenerateArguments
from mindformers_qwenvl.generation.inputs import GenerationInputs
from mindformers_qwenvl.generation.sampling import Sampling
from mindformers_qwenvl.host.network import (
    FreeBlocks,
    OwnGenerationConfig,
    PhasePerShape,
    PhaseToldOnce,
    SaveParameters,
)
from mindformers_qwenvl.model.ops import greedy_argmax, logits_to_choose_from

__all__ = ["QwenPreTrainedModel"]


class QwenPreTrainedModel(
    SaveParameters,
    GenerateArguments,
    OwnGenerationConfig,
    FreeBlocks,
    GenerationInputs,
    PhasePerShape,
    PhaseToldOnce,
    Sampling,
    PreTrainedModel,
):
    """A network that `generate()` calls: it saves its parameters, follows its generation_config.json, needs few
    different shapes, and samples as the original does.

    Args:
        config: its configuration, with `use_past`: whether it keeps keys and values.
    """

    _support_list: ClassVar[list[str]] = []

    def __init__(self, config: Any, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.argmax = greedy_argmax()
        self.logits_to_choose_from = logits_to_choose_from()
        self.use_past = config.use_past

    def postprocess(self, *args: Any, **kwargs: Any) -> Any:
        """Let the host choose the next tokens, from logits in the form that is read fastest."""
        res = kwargs.get("res")
        if isinstance(res, Tensor) and res.size == len(kwargs["input_ids"]) * res.shape[-1]:
            kwargs["res"] = self.logits_to_choose_from(res)
        return super().postprocess(*args, **kwargs)
