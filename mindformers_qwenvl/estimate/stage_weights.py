"""Which pipeline stage a layer is on, and what is computed again there, as MindFormers' LayerSetting has it."""

from __future__ import annotations

from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.section import SettingsError
from mindformers_qwenvl.estimate.weights import Weight
from mindformers_qwenvl.sizes import check_order, stages_by_offset

__all__ = ["Stages"]


class Stages:
    """`vision[i]` and `llm[i]`: the stage of layer i. `recomputed(part, i)`: the whole layer is computed again."""

    def __init__(self, job: Job):
        self.count = job.parallel.pipeline_stage
        self.recompute = job.recompute
        sizes = {"vision": job.vision.num_hidden_layers, "llm": job.llm.num_layers}
        offsets = {"vision": job.vision.offset, "llm": job.llm.offset}
        if job.layers_per_stage is None:
            try:
                placed = {part: stages_by_offset(sizes[part], offsets[part], self.count) for part in sizes}
                check_order(placed["vision"], placed["llm"], self.count)
            except ValueError as error:
                raise SettingsError(str(error)) from error
        else:
            # The tower's layers first, the language model's in what is left.
            order = [stage for stage, layers in enumerate(job.layers_per_stage) for _ in range(layers)]
            placed = {"vision": order[: sizes["vision"]], "llm": order[sizes["vision"] :]}
        self.vision, self.llm = placed["vision"], placed["llm"]

    def of(self, weight: Weight) -> int:
        """What has no layer is beside the layer it follows: the resampler at the tower's end, the head at the end."""
        if weight.layer is not None:
            return (self.llm if weight.part == "llm" else self.vision)[weight.layer]
        if weight.name.endswith("wte.embedding_weight"):
            return self.llm[0]
        if weight.part == "llm":
            return self.count - 1
        behind = weight.part == "resampler" or ".ln_post." in weight.name or weight.name.endswith("vision_encoder.proj")
        return self.vision[-1] if behind else self.vision[0]

    def layers(self, part: str, stage: int) -> list[int]:
        return [layer for layer, place in enumerate(getattr(self, part)) if place == stage]

    def recomputed(self, part: str, layer: int) -> bool:
        """A list in the YAML says how many layers of a stage are; the first ones are taken."""
        wanted = self.recompute.layers
        if isinstance(wanted, bool):
            return wanted
        stage = getattr(self, part)[layer]
        number = wanted[stage]
        return number if isinstance(number, bool) else self.layers(part, stage).index(layer) < number
