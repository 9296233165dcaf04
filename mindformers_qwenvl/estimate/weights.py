"""Every parameter of the network: its shape and bytes, whether it is trained, and how much of it a card holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mindformers_qwenvl.adapters.settings import is_saved
from mindformers_qwenvl.adapters.targets import is_target
from mindformers_qwenvl.config.original import original_sizes
from mindformers_qwenvl.estimate.job import Job, Parallel
from mindformers_qwenvl.estimate.units import DTYPE_BYTES
from mindformers_qwenvl.weights.names import to_original
from mindformers_qwenvl.weights.parts import LANGUAGE, Place, is_norm, place_of, trained_parts
from mindformers_qwenvl.weights.shapes import our_shapes
from mindformers_qwenvl.weights.sharding import model_parallel_axis, optimizer_parallel_shares

__all__ = ["Weight", "weights_of"]


@dataclass(frozen=True)
class Weight:
    """`cuts`: pieces that model_parallel splits it into; `shares`: cards that the optimizer splits a piece over."""

    name: str
    place: Place
    shape: tuple[int, ...]
    item: int  # bytes of a number
    compute_item: int  # bytes of a number in computing; norms are not cast
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
        """Bytes of the copy for computing, if that differs from what is held; otherwise 0."""
        changes = self.shares > 1 or self.item != self.compute_item
        return self.whole * self.compute_item if changes else 0


def weights_of(job: Job) -> Iterator[Weight]:
    """All parameters, without optimizer states and the cache of prediction."""
    for name, shape in our_shapes(original_sizes(job.vision, job.llm)).items():
        yield _weight(job, name, shape, place_of(name))
        if job.adapter is not None:
            yield from _factors(job, name, shape)


def _factors(job: Job, name: str, shape: tuple[int, ...]) -> Iterator[Weight]:
    """A and B beside the weight `name`, if that layer has an adapter; wq, wk and wv share one A."""
    part = to_original(name)
    if len(shape) != 2 or not is_target(part.name, job.adapter):
        return
    layer, rank = name.removesuffix(".weight"), job.adapter.rank_of(part.name.removesuffix(".weight"))
    owner = layer.rpartition(".")[0] if part.of > 1 else layer
    if part.index == 0:
        yield _weight(job, f"{owner}.lora_a.weight", (rank, shape[1]), place_of(name), of_adapter=True)
    yield _weight(job, f"{layer}.lora_b.weight", (shape[0], rank), place_of(name), of_adapter=True)


def _learns(job: Job, name: str, place: Place) -> bool:
    if job.predict or name.endswith("attn_pool.pos_embed"):  # the sine/cosine table is never trained
        return False
    if job.adapter is not None:
        return is_saved(to_original(name).name, job.adapter.modules_to_save)
    return place.part in trained_parts(job)


def _weight(job: Job, name: str, shape: tuple[int, ...], place: Place, of_adapter: bool = False) -> Weight:
    parallel, settings = job.parallel, job.llm if place.part == LANGUAGE else job.vision
    norm = is_norm(name)
    kept = settings.layernorm_compute_type if norm else settings.param_init_type
    item = DTYPE_BYTES["float32" if of_adapter else kept]
    axis = model_parallel_axis(name, parallel.vocab_emb_dp)
    cuts = 1 if axis is None else parallel.model_parallel
    # The embedding is looked up first, then cast.
    as_it_is = norm or name.endswith("embedding_weight")
    return Weight(
        name=name,
        place=place,
        shape=shape,
        item=item,
        compute_item=item if as_it_is else DTYPE_BYTES[settings.compute_dtype],
        learns=not job.predict if of_adapter else _learns(job, name, place),
        cuts=cuts,
        shares=_shares(name, shape, item, axis, cuts, parallel),
    )


def _shares(name: str, shape: tuple[int, ...], item: int, axis: int | None, cuts: int, parallel: Parallel) -> int:
    """Cards with the same piece split it by its first axis, if that is divisible and the piece is not too small."""
    if not parallel.enable_parallel_optimizer or not optimizer_parallel_shares(name):
        return 1
    cards = parallel.data_parallel * parallel.model_parallel // cuts
    rows = shape[0] // (cuts if axis == 0 else 1)
    small = math.prod(shape) // cuts * item < parallel.parallel_optimizer_threshold * 1024
    return 1 if small or rows % cards else cards
