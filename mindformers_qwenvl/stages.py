"""Layers on pipeline stages, as MindFormers' LayerSetting places them by `offset`. Plain Python."""

from __future__ import annotations

from typing import Any

__all__ = ["check_layers_per_stage", "check_order", "stages_by_offset"]


def check_layers_per_stage(given: Any, stages: int, layers: int) -> None:
    """Each stage has at least one layer of vision tower or language model, and all of them together `layers`.

    Raises:
        ValueError: `given` is no such list.
    """
    if isinstance(given, list | tuple) and len(given) == stages and all(map(_is_count, given)) and sum(given) == layers:
        return
    raise ValueError(
        f"layers_per_stage={given!r} must be a list of whole numbers of 1 or more, one for each of the pipeline stages "
        f"(pipeline_stage={stages}), that sum up to {layers} layers (vision tower and language model)"
    )


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def stages_by_offset(layers: int, offset: int | list[int], stages: int) -> list[int]:
    """The stage of each layer of one part: `layers // stages` on each, `offset` (one for all, or one each) more.

    Raises:
        ValueError: that is not the number of layers, or fewer than none on a stage.
    """
    offsets = offset if isinstance(offset, list) else [offset] * stages
    mean = layers // stages
    counts = [mean + more for more in offsets if isinstance(more, int)]
    if len(counts) != stages or min(counts) < 0 or sum(counts) != layers:
        raise ValueError(
            f"{layers} layers on {stages} pipeline stages, {mean} each and offset={offset!r} more; give "
            "model.model_config.layers_per_stage, or an offset for each stage with which they sum up"
        )
    return [stage for stage, count in enumerate(counts) for _ in range(count)]


def check_order(vision: list[int], llm: list[int], stages: int) -> None:
    """MindSpore compiles stages in one direction only: the language model begins where the vision tower ends, or later.

    Args:
        vision, llm: the stage of each of their layers.

    Raises:
        ValueError: it begins earlier.
    """
    if vision[-1] <= llm[0]:
        return
    mean, more = divmod(len(vision) + len(llm), stages)
    even = [mean + (stage >= stages - more) for stage in range(stages)]
    raise ValueError(
        f"pipeline_stage={stages}: the vision tower would end on stage {vision[-1]} and the language model, which "
        f"takes its images, begin on stage {llm[0]}. Set model.model_config.layers_per_stage, the layers of both "
        f"together on each stage: {even} for equal numbers"
    )
