"""Every parameter of the network: shape, bytes, whether it is trained, and what a card holds of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mindformers_qwenvl.estimate.job import Job, Parallel
from mindformers_qwenvl.estimate.section import DTYPE_BYTES
from mindformers_qwenvl.weights.parts import LANGUAGE, RESAMPLER, VISION, Place, is_norm, place_of
from mindformers_qwenvl.weights.shapes import our_shapes
from mindformers_qwenvl.weights.sharding import model_parallel_axis, optimizer_parallel_shares

__all__ = ["Weight", "original_config", "weights_of"]


@dataclass(frozen=True)
class Weight:
    """`cuts`: pieces that model_parallel makes of it; `shares`: cards of the optimizer that share out a piece."""

    name: str
    place: Place
    shape: tuple[int, ...]
    item: int  # bytes of a number
    compute_item: int  # bytes of a number where it is used; a norm's is used as it is
    learns: bool
    cuts: int
    shares: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def whole(self) -> int:
        """Numbers that a card needs to compute."""
        return self.size // self.cuts

    @property
    def held(self) -> int:
        """Numbers that a card holds between two steps."""
        return self.whole // self.shares

    @property
    def copied(self) -> int:
        """Bytes of the copy that is computed with, where that differs from what is held; 0 otherwise."""
        changes = self.shares > 1 or self.item != self.compute_item
        return self.whole * self.compute_item if changes else 0


def original_config(job: Job) -> dict:
    """The sizes under the names of the original's config.json, for weights/shapes.py."""
    vision, llm = job.vision, job.llm
    return {
        "hidden_size": llm.hidden_size,
        "vocab_size": llm.vocab_size,
        "kv_channels": llm.kv_channels,
        "num_attention_heads": llm.num_heads,
        "intermediate_size": 2 * llm.intermediate_size,
        "num_hidden_layers": llm.num_layers,
        "visual": {
            "width": vision.hidden_size,
            "output_dim": vision.output_dim,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "mlp_ratio": Fraction(vision.intermediate_size, vision.hidden_size),
            "n_queries": vision.num_queries,
        },
    }


def weights_of(job: Job) -> Iterator[Weight]:
    """All parameters, without the optimizer's states and the cache of prediction."""
    frozen = {VISION: job.freeze_vision, RESAMPLER: job.freeze_resampler, LANGUAGE: job.freeze_llm}
    parallel = job.parallel
    for name, shape in our_shapes(original_config(job)).items():
        place = place_of(name)
        settings = job.llm if place.part == LANGUAGE else job.vision
        norm = is_norm(name)
        item = DTYPE_BYTES[settings.layernorm_compute_type if norm else settings.param_init_type]
        axis = model_parallel_axis(name, parallel.vocab_emb_dp)
        cuts = 1 if axis is None else parallel.model_parallel
        # The embedding is looked up first, then cast.
        as_it_is = norm or name.endswith("embedding_weight")
        yield Weight(
            name=name,
            place=place,
            shape=shape,
            item=item,
            compute_item=item if as_it_is else DTYPE_BYTES[settings.compute_dtype],
            # The sine/cosine table is never trained.
            learns=not (job.predict or frozen[place.part] or name.endswith("attn_pool.pos_embed")),
            cuts=cuts,
            shares=_shares(name, shape, item, axis, cuts, parallel),
        )


def _shares(name: str, shape: tuple[int, ...], item: int, axis: int | None, cuts: int, parallel: Parallel) -> int:
    """The cards that hold the same piece share it out by its first axis, if that divides and it is not too small."""
    if not parallel.enable_parallel_optimizer or not optimizer_parallel_shares(name):
        return 1
    cards = parallel.data_parallel * parallel.model_parallel // cuts
    rows = shape[0] // (cuts if axis == 0 else 1)
    small = math.prod(shape) // cuts * item < parallel.parallel_optimizer_threshold * 1024
    return 1 if small or rows % cards else cards
