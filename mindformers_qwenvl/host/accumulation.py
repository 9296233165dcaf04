"""Which setting accumulates gradients over parts of a batch, in which parallel mode. Plain Python.

MindFormers accumulates (`runner_config.gradient_accumulation_steps`) in semi_auto_parallel without pipeline stages, and
elsewhere sets the number to 1; QwenVLTrainOneStepCell (`runner_wrapper.accumulation_steps`) accumulates if each card
holds the whole network. Trainer, train step and `estimate` use this check.
"""

from __future__ import annotations

__all__ = ["check_accumulation"]


def check_accumulation(
    *,
    sharded: bool,
    pipeline_stages: int = 1,
    gradient_accumulation_steps: int = 1,
    accumulation_steps: int = 1,
    batch_size: int | None = None,
) -> None:
    """Refuse a setting that would do nothing, or something else, in this parallel mode.

    Args:
        sharded: operators are split over the cards, see `host.context.is_sharded`.
        gradient_accumulation_steps: that of `runner_config`.
        accumulation_steps: that of `runner_wrapper`.
        batch_size: rows of a batch on a card; None: not known.

    Raises:
        ValueError: one of the two is set where it does not apply, or the parts do not divide the rows.
    """
    if gradient_accumulation_steps > 1 and (not sharded or pipeline_stages > 1):
        steps = gradient_accumulation_steps
        raise ValueError(
            f"runner_config.gradient_accumulation_steps={steps} is for semi_auto_parallel without pipeline stages; "
            "elsewhere MindFormers sets it to 1 without an error. On one card and in data parallel, set "
            f"runner_wrapper.accumulation_steps={steps} (type QwenVLTrainOneStepCell) and multiply "
            "runner_config.batch_size by it; with pipeline stages, set parallel_config.micro_batch_num"
        )
    if accumulation_steps > 1 and sharded:  # MindFormers may use a wrapper of its own there, which drops the key
        raise ValueError(
            f"runner_wrapper.accumulation_steps={accumulation_steps} is for one card and data parallel; in "
            "semi_auto_parallel set runner_config.gradient_accumulation_steps, with pipeline stages "
            "parallel_config.micro_batch_num"
        )
    if batch_size is not None and batch_size % accumulation_steps:
        raise ValueError(
            f"runner_wrapper.accumulation_steps={accumulation_steps} must divide runner_config.batch_size="
            f"{batch_size}, the rows of a batch on a card; change one of the two"
        )
