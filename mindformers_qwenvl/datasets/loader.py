"""`data_loader: {type: QwenVLDataLoader}`: Qwen-VL conversation files for MindFormers' `ModalToTextSFTDataset`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore.dataset import GeneratorDataset, config

from mindformers_qwenvl.checks import arguments_of, refuse_unknown, whole
from mindformers_qwenvl.datasets.ahead import PreparedSamples
from mindformers_qwenvl.datasets.annotations import AnnotationFile, SampleNote, encode_sample
from mindformers_qwenvl.datasets.order import OrderedDataset, SampleOrder
from mindformers_qwenvl.datasets.split import held_out_records

# With more workers the loader does not prepare samples: it takes 0.6 ms for one, and each worker asks every 5 ms.
WORKERS_SERVED = 4


class QwenVLDataLoader:
    """A MindSpore dataset with one column, `conversations` (a string scalar, see `annotations.encode_sample`).

    Unlike the stock `BaseMultiModalDataLoader` it also reads JSONL, keeps no records in memory, and carries the file,
    number and id of every sample, so that errors can name them.

    Order: it depends only on `seed` and the epoch, not on the number of workers. With shards (the host's, or
    `num_shards` here), sample k of shard s is number k * num_shards + s in the order of all samples.

    The host's shards, one per card in data parallel, have equal size. The remaining samples are left out of the epoch,
    as `drop_remainder` leaves out an incomplete batch; no sample comes twice.

    A resumed training (`resume_training` or `data_skip_steps`: the host calls `set_init_step`) continues with the
    samples that would have come next, in the epoch they belong to. Earlier ones are skipped without being read.

    Args:
        annotation_file: JSON list or JSONL of conversations; if there is no such file, it is looked for in
            `dataset_dir`.
        shuffle: whether each epoch has another order.
        seed: of the shuffle, the same on every rank. None: MindSpore's dataset seed (`train_dataset.seed`).
        num_samples: use only that many samples from the start of the file, or of its part.
        split: a share of the file, such as 0.02, that is held out: no picture is in both parts. Every record is read
            before the first step; `mindformers-qwenvl check-data --split` does it once for all runs.
        held_out: with `split`, whether to read the held-out part (for `eval_dataset`) or the other one.
        split_seed: a different seed holds out different records.
        dataset_dir: folder of the pictures, which must be inside it; it takes precedence over the template's
            `dataset_dir`. `run_mindformer.py --train_dataset_dir` sets it, so it may also be the annotation file
            itself: then relative paths start from its folder, and absolute ones may lead anywhere.
        data_field, from_keyword, value_keyword: keys of the conversation, of its roles and of its texts.
        index_dir: folder to keep the positions of the records in, so that a large file opens at once the next time; if
            the file has changed, they are found again. None: they are found each time (0.3 s for 100 MB).
        num_shards, shard_id: yield only the samples of one shard, for use outside MindFormers' datasets, which do
            their own sharding. Every sample is in one shard; the sizes differ by at most one.
        kwargs: for `mindspore.dataset.GeneratorDataset`.

    Raises:
        FileNotFoundError: there is no annotation file.
        AnnotationError: it is not JSON or has no samples. A malformed record raises when it is read.
        ValueError: an argument is out of range; the message names it.
    """

    def __new__(
        cls,
        annotation_file: str | os.PathLike[str] | None = None,
        shuffle: bool = True,
        seed: int | None = None,
        num_samples: int | None = None,
        split: float | None = None,
        held_out: bool = False,
        split_seed: int = 0,
        dataset_dir: str | os.PathLike[str] | None = None,
        data_field: str = "conversations",
        from_keyword: str = "from",
        value_keyword: str = "value",
        index_dir: str | os.PathLike[str] | None = None,
        num_shards: int | None = None,
        shard_id: int | None = None,
        **kwargs: Any,
    ) -> GeneratorDataset:
        refuse_unknown("QwenVLDataLoader", kwargs, (*_OF_THE_HOST, *arguments_of(cls)))
        whole("seed", seed, 0, optional=True)
        whole("num_samples", num_samples, optional=True)
        whole("split_seed", split_seed, 0)
        if held_out and split is None:
            raise ValueError("held_out: True needs split, the share of the file that is held out")
        path, root = _find(annotation_file, dataset_dir)
        file = AnnotationFile(
            path,
            data_field=data_field,
            from_keyword=from_keyword,
            value_keyword=value_keyword,
            index_dir=index_dir or None,
        )
        confined = not (dataset_dir and Path(dataset_dir).is_file())
        source = _SampleSource(file, root, _part(file, split, held_out, split_seed, num_samples), confined)
        if shuffle:
            seed = config.get_seed() if seed is None else int(seed)
        sampler = SampleOrder(len(source), seed if shuffle else None, num_shards, shard_id)
        return OrderedDataset(source, ["conversations"], sampler=sampler, **kwargs)


class _SampleSource:
    """Random access to the samples, as `GeneratorDataset` wants it."""

    def __init__(self, file: AnnotationFile, root: str | None, records: Sequence[int], confined: bool = True) -> None:
        self.file = file
        self.root = root
        self.confined = confined
        self.records = records
        # One thread reads for all workers: with many of them it would be the bottleneck.
        workers = config.get_num_parallel_workers()
        in_flight = 8 + 2 * config.get_prefetch_size() * (workers + 2)  # more than the dataset's queues hold
        self.prepared = PreparedSamples(in_flight) if workers <= WORKERS_SERVED else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        where, turns = self.file.sample(self.records[int(index)])
        note = SampleNote(where, self.root, self.confined)
        if self.prepared is not None:
            note = self.prepared.offer(turns, note)
        return (np.array(encode_sample(turns, note)),)


def _part(
    file: AnnotationFile, share: float | None, held_out: bool, seed: int, num_samples: int | None
) -> Sequence[int]:
    """Numbers of the records that are used, in the order of the file."""
    if share is None:
        return range(len(file))[:num_samples]
    chosen = held_out_records(file, share, seed)
    return [number for number in range(len(file)) if (number in chosen) == held_out][:num_samples]


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
        raise ValueError("QwenVLDataLoader needs annotation_file, the JSON or JSONL file of the conversations")
    path = Path(annotation_file)
    if root is not None and not path.is_absolute() and not path.is_file():
        path = root / path
    return path, None if root is None else str(root)


_OF_THE_HOST = arguments_of(GeneratorDataset)
