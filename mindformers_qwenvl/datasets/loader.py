"""`data_loader: {type: QwenVLDataLoader}`: Qwen-VL conversation files for MindFormers' `ModalToTextSFTDataset`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.dataset import DistributedSampler, GeneratorDataset, Sampler, config

from mindformers_qwenvl.datasets.ahead import Ahead
from mindformers_qwenvl.datasets.annotations import AnnotationFile, SampleNote, encode_sample

WORKERS_SERVED = 4  # by a loader that prepares samples: it takes 0.6 ms for one, a worker 5 ms


class QwenVLDataLoader:
    """Makes a MindSpore dataset of one column, `conversations` (a string scalar, see `annotations.encode_sample`).

    Unlike the stock `BaseMultiModalDataLoader` it reads JSONL too, holds no records in memory, and carries file, number
    and id of every sample, so that errors name them.

    The order depends on `seed` and the epoch alone: not on the number of workers, and with shards (the host's, or
    `num_shards` here) sample k of shard s is number k * num_shards + s of the one order of all. The shards of the host,
    one a card in data parallel, are of equal size: what does not go round is left out of the epoch, as it would be at
    the end of it with one card and batches that large (`drop_remainder`); no sample comes twice. A training that is
    resumed (`resume_training` or `data_skip_steps`: the host calls `set_init_step`) goes on with the samples that would
    have come next, in the epoch they belong to; those before are skipped by number, without being read.

    Args:
        annotation_file: JSON list or JSONL of conversations; relative to `dataset_dir` if it is not found as it stands.
        shuffle: another order in each epoch.
        seed: order of the shuffle, the same on every rank. None: MindSpore's dataset seed (`train_dataset.seed`).
        num_samples: use the first so many samples of the file only.
        dataset_dir: folder of the pictures; takes the place of the template's `dataset_dir`, and like that one keeps
            them inside. It is what `run_mindformer.py --train_dataset_dir` sets, so it may also be the annotation file
            itself: relative paths then start from its folder, and absolute ones may lead anywhere.
        data_field, from_keyword, value_keyword: keys of the conversation, of its roles and of its texts.
        index_dir: folder to keep the positions of the records in, so that a large file opens at once the next time;
            made anew if the file has changed. None: they are found again each time (0.3 s for 100 MB).
        num_shards, shard_id: give only the samples of one shard, for use outside of MindFormers' datasets, which shard
            by themselves. Every sample is in one shard; their sizes differ by one at most.
        kwargs: for `mindspore.dataset.GeneratorDataset`.

    Raises:
        FileNotFoundError: no annotation file.
        AnnotationError: it is not JSON or holds no samples. A record of another form raises when it is read.
        ValueError: an argument makes no sense.
    """

    def __new__(
        cls,
        annotation_file: str | os.PathLike[str] | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        num_samples: int | None = None,
        dataset_dir: str | os.PathLike[str] | None = None,
        data_field: str = "conversations",
        from_keyword: str = "from",
        value_keyword: str = "value",
        index_dir: str | os.PathLike[str] | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        **kwargs: Any,
    ) -> GeneratorDataset:
        _whole("seed", seed, 0)
        _whole("num_samples", num_samples, 1)
        path, root = _find(annotation_file, dataset_dir)
        file = AnnotationFile(
            path,
            data_field=data_field,
            from_keyword=from_keyword,
            value_keyword=value_keyword,
            index_dir=index_dir or None,
        )
        confined = not (dataset_dir and Path(dataset_dir).is_file())
        source = _Samples(file, root, num_samples, confined)
        if shuffle:
            seed = config.get_seed() if seed is None else int(seed)
        sampler = Order(len(source), seed if shuffle else None, num_shards, shard_id)
        return _Conversations(source, ["conversations"], sampler=sampler, **kwargs)


class _Conversations(GeneratorDataset):
    """`GeneratorDataset`, which the host adds a DistributedSampler to in order to shard it.

    That one fills up the last shards with samples of the first, so that these come twice in an epoch; and the host cuts
    them off again in semi_auto_parallel only (mindformers/dataset/modal_to_text_sft_dataset.py, `take`; 1.9).
    """

    def add_sampler(self, new_sampler: Sampler) -> None:
        order = self.sampler
        if not (isinstance(new_sampler, DistributedSampler) and isinstance(order, Order) and order.is_whole):
            super().add_sampler(new_sampler)
            return
        self.dataset_size = None
        self.sampler = Order(order.size, order.seed, new_sampler.num_shards, new_sampler.shard_id, even=True)


class Order(Sampler):
    """Numbers of 0..size-1 in an order that depends on `seed` and the epoch alone; None: as they come.

    The host counts the epochs: it asks for the numbers once for each, those skipped by a resumed training included.
    With `even`, all shards are of the same size, and the last `size % num_shards` numbers of an epoch in none.
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
            raise ValueError(f"num_shards and shard_id belong together, got {num_shards} and {shard_id}")
        if num_shards is not None and not 0 <= shard_id < num_shards:
            raise ValueError(f"shard_id must be 0 to num_shards - 1, got shard_id {shard_id} of {num_shards}")
        if num_shards is not None and num_shards > size:
            raise ValueError(f"{size} samples for {num_shards} shards: some would have none")
        self.size = size
        self.seed = seed
        self.is_whole = num_shards is None
        num_shards = num_shards or 1
        self.part = slice(shard_id or 0, size - size % num_shards if even else None, num_shards)
        self.epoch = 0
        super().__init__(len(range(size)[self.part]))

    def __iter__(self) -> Iterator[int]:
        if self.seed is None:
            return iter(range(self.size)[self.part])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        self.epoch += 1
        return map(int, order[self.part])


class _Samples:
    """Random access to the samples, as `GeneratorDataset` wants it."""

    def __init__(self, file: AnnotationFile, root: str | None, num_samples: int | None, confined: bool = True) -> None:
        self.file = file
        self.root = root
        self.confined = confined
        self.size = len(file) if num_samples is None else min(len(file), num_samples)
        # One thread reads for all workers: for many of them it would be the narrow place.
        workers = config.get_num_parallel_workers()
        under_way = 8 + 2 * config.get_prefetch_size() * (workers + 2)  # more than the dataset's queues hold
        self.ahead = Ahead(under_way) if workers <= WORKERS_SERVED else None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        index = int(index)
        where, turns = self.file.sample(index)
        note = SampleNote(where, self.root, self.confined)
        if self.ahead is not None:
            note = self.ahead.offer(turns, note)
        return (np.array(encode_sample(turns, note)),)


def _whole(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or above, or left out, got {value!r}")


def _find(
    annotation_file: str | os.PathLike[str] | None, dataset_dir: str | os.PathLike[str] | None
) -> tuple[Path, str | None]:
    """(annotation file, folder of the pictures or None)."""
    root = Path(dataset_dir) if dataset_dir else None
    if root is not None and root.is_file():
        return root, str(root.parent)
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"dataset_dir {root}: no such folder")
    if not annotation_file:
        raise ValueError("QwenVLDataLoader: give annotation_file, the JSON or JSONL file of the conversations")
    path = Path(annotation_file)
    if root is not None and not path.is_absolute() and not path.is_file():
        path = root / path
    return path, None if root is None else str(root)
