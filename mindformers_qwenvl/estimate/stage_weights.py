"""Which pipeline stage a layer is on and whether it is recomputed, as MindFormers' LayerSetting places it."""

from __future__ import annotations

from mindformers_qwenvl.config.sizes import check_order, stages_by_offset
from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.weights import Weight
from mindformers_qwenvl.recipes.section import SettingsError
from mindformers_qwenvl.weights.parts import LANGUAGE, VISION

__all__ = ["Stages"]


class Stages:
    """`vision[i]` and `llm[i]`: the stage of layer i. `recomputed(part, i)`: the whole layer is recomputed."""

    def __init__(self, job: Job):
        self.count = job.parallel.pipeline_stage
        self.recompute = job.recompute
        sizes = {VISION: job.vision.num_hidden_layers, LANGUAGE: job.llm.num_layers}
        offsets = {VISION: job.vision.offset, LANGUAGE: job.llm.offset}
        if job.layers_per_stage is None:
            try:
                placed = {part: stages_by_offset(sizes[part], offsets[part], self.count) for part in sizes}
                check_order(placed[VISION], placed[LANGUAGE], self.count)
            except ValueError as error:
                raise SettingsError(str(error)) from error
        else:
            # The tower's layers come first, then the language model's.
            order = [stage for stage, layers in enumerate(job.layers_per_stage) for _ in range(layers)]
            placed = {VISION: order[: sizes[VISION]], LANGUAGE: order[sizes[VISION] :]}
        self.vision, self.llm = placed[VISION], placed[LANGUAGE]

    def of(self, weight: Weight) -> int:
        """The stage of its layer. Without a layer, it is with the part's first or last one; the head is on the last."""
        part, layer, after_layers = weight.place
        stages = self.llm if part == LANGUAGE else self.vision
        if layer is not None:
            return stages[layer]
        if part == LANGUAGE and after_layers:
            return self.count - 1
        return stages[-1] if after_layers else stages[0]

    def layers(self, part: str, stage: int) -> list[int]:
        return [layer for layer, place in enumerate(getattr(self, part)) if place == stage]

    def recomputed(self, part: str, layer: int) -> bool:
        """A list in the YAML says how many layers of each stage, from the first one, are recomputed."""
        wanted = self.recompute.layers
        if isinstance(wanted, bool):
            return wanted
        stage = getattr(self, part)[layer]
        number = wanted[stage]
        return number if isinstance(number, bool) else self.layers(part, stage).index(layer) < number
