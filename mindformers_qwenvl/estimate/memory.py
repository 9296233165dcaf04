"""The memory of a card: what it holds all the time, and its peak during a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from mindformers_qwenvl.estimate import activations
from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.stage_weights import Stages
from mindformers_qwenvl.estimate.units import DTYPE_BYTES
from mindformers_qwenvl.estimate.weights import Weight, weights_of
from mindformers_qwenvl.weights.parts import LANGUAGE, VISION

__all__ = ["Card", "Estimate", "estimate"]

STATE_BYTES = 2 * 4  # AdamW: two float32 moments
# Arrays of a parameter's size in the update of MindFormers' AdamW (core/optim/adamw.py), and two more for the gradient,
# scaled and clipped.
UPDATE_ARRAYS = 12
# On a CPU the arrays of all parameters exist at once. This number was measured with MindFormers' AdamW, see
# tests/bench/bench_memory.py.
CPU_UPDATE_ARRAYS = 11


@dataclass(frozen=True)
class Card:
    """One card of a pipeline stage, in bytes. `moments`: what each moment of a step needs on top of `held`."""

    stage: int
    parameters: int  # numbers it holds
    weights: int
    optimizer: int
    gradients: int
    accumulated: int  # gradients accumulated over micro batches
    computing_weights: int  # copies in the computing type and size, for the length of a step
    activations: int
    cache: int
    moments: dict[str, int]

    @property
    def held(self) -> int:
        return self.weights + self.optimizer + self.accumulated + self.computing_weights + self.cache

    @property
    def fullest(self) -> str:
        return max(self.moments, key=self.moments.__getitem__)

    @property
    def total(self) -> int:
        return self.held + self.moments[self.fullest]


@dataclass(frozen=True)
class Estimate:
    job: Job
    parameters: int
    trained: int
    cards: tuple[Card, ...]

    @property
    def total(self) -> int:
        """Bytes of the fullest card."""
        return max(card.total for card in self.cards)

    def as_dict(self, device_memory: int | None) -> dict[str, Any]:
        """Plain numbers for JSON; all sizes in bytes."""
        parallel = self.job.parallel
        return {
            "yaml": self.job.name,
            "cards": parallel.cards,
            "data_parallel": parallel.data_parallel,
            "model_parallel": parallel.model_parallel,
            "pipeline_stage": parallel.pipeline_stage,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "stages": [{**asdict(card), "fullest": card.fullest, "total": card.total} for card in self.cards],
            "total": self.total,
            "device_memory": device_memory,
            "fits": None if device_memory is None else self.total <= device_memory,
        }


def estimate(job: Job) -> Estimate:
    """Weights, gradients, optimizer states and activations of a card of each pipeline stage.

    The driver, the communication library and fragmentation are not counted.
    """
    weights, stages = list(weights_of(job)), Stages(job)
    card = _predicting if job.predict else _training
    return Estimate(
        job=job,
        parameters=sum(weight.size for weight in weights),
        trained=sum(weight.size for weight in weights if weight.learns),
        cards=tuple(
            card(job, stages, stage, [weight for weight in weights if stages.of(weight) == stage])
            for stage in range(stages.count)
        ),
    )


def _training(job: Job, stages: Stages, stage: int, weights: list[Weight]) -> Card:
    if job.accumulation_steps > 1:  # the rows of a batch go through the network in parts
        job = _replace_rows(job)
    trained = [weight for weight in weights if weight.learns]
    gradients = _bytes(trained)
    states = 0 if job.swapped else STATE_BYTES * sum(weight.held for weight in trained)
    blocks = _Blocks(job, stages, stage, weights)
    accumulated = gradients * (job.accumulation_steps > 1)
    if job.parallel.micro_batch_num > 1 or job.accumulation > 1:
        # MindFormers' accu_grads: whole, unless gradient_accumulation_shard splits them, too.
        shared = job.parallel.gradient_accumulation_shard
        accumulated = sum((weight.held if shared else weight.whole) * weight.item for weight in trained)
    last = stage == stages.count - 1
    head, loss = activations.head_and_loss(job) if last else (0, 0)
    tail = activations.resampler(job) if stage == stages.vision[-1] else activations.Layer(0, 0, 0)
    # 1F1B: a stage is as many micro batches ahead of the last stage as there are stages from it to the last.
    under_way = min(job.parallel.pipeline_stage - stage, job.parallel.micro_batch_num)
    of_one = blocks.kept + tail.kept + head
    kept = activations.inputs(job) + under_way * of_one
    # The gradient of an embedding is whole at first, even if a card holds only a part of the table.
    lookup = max((w.whole * w.item for w in trained if w.name.endswith("embedding_weight") and w.shares > 1), default=0)
    if job.fused:
        update = UPDATE_ARRAYS * 4 * max((weight.held for weight in trained), default=0)
    elif job.updated_in_place:
        update = 4 * sum(weight.held for weight in trained)  # the clipped gradients
    else:
        update = CPU_UPDATE_ARRAYS * 4 * sum(weight.held for weight in trained)
    moments = {
        "backward": kept - of_one + gradients + max(blocks.backward, tail.work, lookup),
        "update": gradients + update,
    }
    if last:
        moments["loss"] = kept + loss
    return Card(
        stage=stage,
        parameters=sum(weight.held for weight in weights),
        weights=_bytes(weights),
        optimizer=states,
        gradients=gradients,
        accumulated=accumulated,
        computing_weights=blocks.computing_weights,
        activations=kept,
        cache=0,
        moments=moments,
    )


class _Blocks:
    """The layers of a stage: what they keep, the most that a backward pass needs, and the computing copies of weights.

    A weight that is held in another type, or split over the cards by the optimizer, is copied for computing. The
    copies of a recomputed layer come and go with it (if they are gathered, with a group of layers:
    gradient_aggregation_group); the others stay from the forward to the backward pass.
    """

    def __init__(self, job: Job, stages: Stages, stage: int, weights: list[Weight]):
        self.kept = self.backward = 0
        gathers, recompute = job.parallel.enable_parallel_optimizer, job.recompute
        stays = sum(weight.copied for weight in weights if weight.place.layer is None and _needed(weight, job))
        transient = 0
        for part, layer in ((VISION, activations.vision_layer(job)), (LANGUAGE, activations.language_layer(job))):
            if part == VISION and job.freeze_vision:
                continue  # no gradient passes through it: it keeps nothing
            of_layer: dict[int, int] = {}
            for weight in weights:
                place = weight.place
                if place.part == part and place.layer is not None:
                    of_layer[place.layer] = of_layer.get(place.layer, 0) + weight.copied
            for number in stages.layers(part, stage):
                again = stages.recomputed(part, number)
                if again:
                    share = job.parallel.model_parallel if recompute.slice_activation else 1
                    self.kept += layer.boundary // share
                else:
                    self.kept += layer.kept - (layer.selected if recompute.select else 0)
                self.backward = max(self.backward, layer.work + (layer.kept if again else 0))
                # With pipeline stages, weights are gathered once for all micro batches.
                once = gathers and (not recompute.communication or stages.count > 1)
                if not again or once:
                    stays += of_layer[number]
            group = _group(len(of_layer), job) if gathers else 1
            transient = max(transient, group * max(of_layer.values(), default=0))
        self.computing_weights = stays
        # The gradients of a group of layers wait, whole and in the computing type, until all cards have theirs.
        waiting = transient if gathers else 0
        self.backward += transient + waiting


def _group(layers: int, job: Job) -> int:
    """Layers whose weights are sent in one message: MindFormers' LayerSetting.set_communication_fusion."""
    return min(layers, max((layers + 1) // job.parallel.gradient_aggregation_group, 1))


def _needed(weight: Weight, job: Job) -> bool:
    """Whether the backward pass goes through what `weight` belongs to."""
    part, _, after_layers = weight.place
    if part == LANGUAGE:
        return after_layers
    return not (job.freeze_vision and job.freeze_resampler) if after_layers else not job.freeze_vision


def _replace_rows(job: Job) -> Job:
    parts = job.accumulation_steps
    return replace(job, rows=job.rows // parts, images=math.ceil(job.images / parts))


def _predicting(job: Job, stages: Stages, stage: int, weights: list[Weight]) -> Card:
    """Weights, key/value cache (each card keeps its own heads, for all rows), and a prompt of seq_length tokens."""
    llm, cards = job.llm, job.parallel.model_parallel
    compute = DTYPE_BYTES[llm.compute_dtype]
    slots = llm.num_blocks * llm.block_size + (0 if job.fused else 1)
    cache = 2 * compute * slots * llm.hidden_size // cards * len(stages.layers(LANGUAGE, stage)) if llm.use_past else 0
    layers = (activations.vision_layer(job), activations.language_layer(job))
    # Only the forward pass: one layer at a time, its input and its inside, and the copies of the largest weight.
    inside = max(layer.kept + layer.boundary for layer in layers) + max(weight.copied for weight in weights)
    rows = job.rows * (job.tokens if not llm.use_past else 1)  # with a cache the head sees the last token of each row
    logits = 4 * rows * llm.vocab_size // (1 if job.parallel.vocab_emb_dp else cards)
    return Card(
        stage=stage,
        parameters=sum(weight.held for weight in weights),
        weights=_bytes(weights),
        optimizer=0,
        gradients=0,
        accumulated=0,
        computing_weights=0,
        activations=inside,
        cache=cache,
        moments={"prompt": activations.inputs(job) + inside, "logits": 2 * logits},
    )


def _bytes(weights: Iterable[Weight]) -> int:
    return sum(weight.held * weight.item for weight in weights)
