"""The order of the samples: by seed and epoch, in shards of equal size. The samplers of MindSpore's datasets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mindspore.dataset import DistributedSampler, GeneratorDataset, Sampler

__all__ = ["OrderedDataset", "SampleOrder"]


class OrderedDataset(GeneratorDataset):
    """A `GeneratorDataset` that stays in its `SampleOrder` when the host shards it with a DistributedSampler.

    DistributedSampler fills up the last shards with samples of the first ones, which then come twice in an epoch. The
    host removes them again only in semi_auto_parallel (mindformers/dataset/modal_to_text_sft_dataset.py, `take`; 1.9).
    """

    def add_sampler(self, new_sampler: Sampler) -> None:
        """Take the shard of a DistributedSampler; any other sampler is added as usual."""
        order = self.sampler
        if not (isinstance(new_sampler, DistributedSampler) and isinstance(order, SampleOrder) and order.is_whole):
            super().add_sampler(new_sampler)
            return
        self.dataset_size = None
        self.sampler = SampleOrder(order.size, order.seed, new_sampler.num_shards, new_sampler.shard_id, even=True)


class SampleOrder(Sampler):
    """The numbers 0 to size - 1, in an order that depends only on `seed` and the epoch; seed None: in ascending order.

    The host counts the epochs: it asks for the numbers once per epoch, including those a resumed training skips. With
    `even`, all shards have the same size, and the last `size % num_shards` numbers of an epoch are in none.

    Raises:
        ValueError: `num_shards` without `shard_id`, one out of range, or more shards than samples.
    """

    def __init__(
        self,
        size: int,
        seed: int | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        even: bool = False,
    ) -> None:
        if (num_shards is None) != (shard_id is None):
            raise ValueError(f"num_shards and shard_id must be given together, got {num_shards} and {shard_id}")
        if num_shards is not None and not 0 <= shard_id < num_shards:
            raise ValueError(f"shard_id must be from 0 to num_shards - 1, got {shard_id} of {num_shards} shards")
        if num_shards is not None and num_shards > size:
            raise ValueError(f"{size} samples are too few for {num_shards} shards: some would be empty")
        self.size = size
        self.seed = seed
        self.is_whole = num_shards is None
        num_shards = num_shards or 1
        self.shard = slice(shard_id or 0, size - size % num_shards if even else None, num_shards)
        self.epoch = 0
        super().__init__(len(range(size)[self.shard]))

    def __iter__(self) -> Iterator[int]:
        if self.seed is None:
            return iter(range(self.size)[self.shard])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        self.epoch += 1
        return map(int, order[self.shard])
