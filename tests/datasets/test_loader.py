"""The data loader over annotation files: order, shards, workers, resuming."""

from __future__ import annotations

import json

import pytest

from mindformers_qwenvl.datasets.annotations import split_note
from tests.support.annotation_files import record, write_list


def loader(*args, **kwargs):
    from mindformers_qwenvl.datasets.loader import QwenVLDataLoader

    return QwenVLDataLoader(*args, **kwargs)


def epochs(dataset, count: int = 1) -> list[list[int]]:
    """The numbers of the samples in the order of `count` epochs."""
    rows = dataset.create_tuple_iterator(num_epochs=count, output_numpy=True)
    return [[int(json.loads(str(row[0]))[1]["value"].split()[1]) for row in rows] for _ in range(count)]


def test_the_stock_transform_reads_the_column(annotations):
    from mindformers.models.multi_modal import BaseXModalToTextTransform

    rows = list(loader(annotations, shuffle=False).create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert len(rows) == 7
    for number, (column,) in enumerate(rows):
        assert column.shape == ()
        note, turns = split_note(BaseXModalToTextTransform.process_conversation(column))
        assert turns == [("user", f'问题 {number}\n\t"q"'), ("assistant", f"a{number} 😀")]
        assert f"id 'identity_{number}'" in note.where and note.root is None


@pytest.fixture
def ten(tmp_path):
    return write_list(tmp_path / "ten.json", [record(number) for number in range(10)])


def test_order(ten):
    import mindspore.dataset as ds

    everything = list(range(10))
    assert epochs(loader(ten, shuffle=False)) == [everything]
    ds.config.set_seed(11)
    by_host_seed = epochs(loader(ten), 2)
    first, second = epochs(loader(ten, seed=3), 2)
    for order in (first, second, *by_host_seed):
        assert sorted(order) == everything and order != everything
    assert first != second
    ds.config.set_seed(12)
    assert epochs(loader(ten, seed=3), 2) == [first, second]
    assert epochs(loader(ten, seed=4)) != [first]
    assert sorted(epochs(loader(ten, num_samples=4, seed=1))[0]) == [0, 1, 2, 3]
    assert len(epochs(loader(ten, num_samples=40))[0]) == 10


def test_a_part_is_held_out_without_overlap(tmp_path):
    """Neighbours share a picture, so they are on one side; every record is on one side."""
    records = [record(number) for number in range(40)]
    for number, one in enumerate(records):
        one["conversations"][0]["value"] += f"<img>{number // 2}.png</img>"
    path = write_list(tmp_path / "all.json", records)
    [trained], [held_out], [other] = (
        epochs(loader(path, shuffle=False, split=0.2, **more)) for more in ({}, {"held_out": True}, {"split_seed": 1})
    )
    assert sorted(trained + held_out) == list(range(40))
    assert len(held_out) == 8 and trained == sorted(trained)
    assert not {number // 2 for number in trained} & {number // 2 for number in held_out}
    assert other != trained
    assert epochs(loader(path, shuffle=False, split=0.2, held_out=True, num_samples=3)) == [held_out[:3]]
    with pytest.raises(ValueError, match="held_out: True needs split"):
        loader(path, held_out=True)
    with pytest.raises(ValueError, match="above 0 and below 1, got 2"):
        loader(path, split=2)


@pytest.mark.parametrize("seed", [None, 5])
def test_shards_of_the_host_cover_everything_once(ten, seed):
    import mindspore.dataset as ds

    parts = []
    for shard in range(2):
        ds.config.set_seed(1)
        dataset = loader(ten, seed=seed)
        assert dataset.get_dataset_size() == 10
        dataset.add_sampler(ds.DistributedSampler(num_shards=2, shard_id=shard, shuffle=False))
        assert dataset.get_dataset_size() == 5
        parts.append(epochs(dataset, 2))
    for epoch in range(2):
        assert sorted(parts[0][epoch] + parts[1][epoch]) == list(range(10))


def test_order_is_that_of_the_host_seed(ten):
    import mindspore.dataset as ds

    orders = []
    for seed in (4, 5, 4):
        ds.config.set_seed(seed)
        orders.append(epochs(loader(ten), 2))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] == epochs(loader(ten, seed=4), 2)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("shards", [1, 2, 3, 10])
def test_shards_without_overlap_or_loss(ten, shards, shuffle):
    whole = epochs(loader(ten, seed=3, shuffle=shuffle), 2)
    parts = [
        epochs(loader(ten, seed=3, shuffle=shuffle, num_shards=shards, shard_id=shard), 2) for shard in range(shards)
    ]
    for epoch in range(2):
        assert [whole[epoch][shard::shards] for shard in range(shards)] == [part[epoch] for part in parts]


@pytest.mark.parametrize("shards", [2, 3])
def test_a_global_batch_is_the_same_for_any_number_of_shards_of_the_host(ten, shards):
    import mindspore.dataset as ds

    whole = epochs(loader(ten, seed=3))[0]
    batches = [set() for _ in range(10 // shards)]
    for shard in range(shards):
        dataset = loader(ten, seed=3)
        dataset.add_sampler(ds.DistributedSampler(num_shards=shards, shard_id=shard, shuffle=False))
        for batch, number in zip(batches, epochs(dataset)[0], strict=False):
            batch.add(number)
    assert batches == [set(whole[step * shards : (step + 1) * shards]) for step in range(10 // shards)]


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("shards", [3, 4, 7, 10])
def test_shards_of_the_host_are_even_and_nothing_comes_twice(ten, seed, shards):
    """MindSpore's DistributedSampler alone would give the last shards samples of the first ones again."""
    import mindspore.dataset as ds

    whole = epochs(loader(ten, seed=seed, shuffle=seed is not None), 2)
    size = 10 // shards
    for shard in range(shards):
        dataset = loader(ten, seed=seed, shuffle=seed is not None)
        dataset.add_sampler(ds.DistributedSampler(num_shards=shards, shard_id=shard, shuffle=False))
        assert dataset.get_dataset_size() == size
        assert epochs(dataset, 2) == [order[shard : size * shards : shards] for order in whole]


@pytest.mark.parametrize("processes", [False, True])
def test_order_does_not_depend_on_workers(ten, processes):
    orders = []
    for workers in (1, 2):
        dataset = loader(ten, seed=3, num_parallel_workers=workers, python_multiprocessing=processes)
        orders.append(epochs(dataset, 2))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("skipped", [1, 4, 5, 12])
def test_a_resumed_training_goes_on_where_it_was_and_reads_nothing_else(ten, seed, skipped):
    """Five steps an epoch, three epochs; the host's trainer calls `set_init_step`."""

    def steps(skip: int) -> tuple[list[list[int]], int]:
        dataset, read = loader(ten, seed=seed), []
        dataset = dataset.map(lambda column: (read.append(1), column)[1], ["conversations"]).batch(2)
        dataset.set_init_step(skip)
        rows = dataset.create_tuple_iterator(num_epochs=3, output_numpy=True)
        found = [
            [json.loads(str(text))[0]["value"].partition("sample ")[2][0] for text in row[0]]
            for _ in range(3 - skip // 5)
            for row in rows
        ]
        return found, len(read)

    whole, _ = steps(0)
    resumed, count = steps(skipped)
    assert len(whole) == 15 and resumed == whole[skipped:]
    assert count <= 2 * len(resumed) + 2 * (skipped > 10) + 4  # none of those before


def test_shards_that_are_refused(ten):
    for options in (
        {"num_shards": 2},
        {"shard_id": 0},
        {"num_shards": 2, "shard_id": 2},
        {"num_shards": 11, "shard_id": 0},
    ):
        with pytest.raises(ValueError, match="shard"):
            loader(ten, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", "7"),
        ("num_samples", "5"),
        ("num_samples", 1.5),
        ("num_samples", 0),
        ("num_samples", True),
    ],
)
def test_numbers_that_are_refused(ten, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a whole number of .* got {value!r}"):
        loader(ten, **{name: value})


def test_an_index_is_kept_where_it_is_said(ten, tmp_path):
    first = epochs(loader(ten, seed=3, index_dir=tmp_path / "index"))
    (kept,) = (tmp_path / "index").iterdir()
    before = kept.stat().st_mtime_ns
    assert epochs(loader(ten, seed=3, index_dir=str(tmp_path / "index"))) == first
    assert kept.stat().st_mtime_ns == before


def test_dataset_dir(tmp_path, ten):
    def note(dataset):
        row = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
        return json.loads(json.loads(str(row[0]))[0]["value"])

    assert note(loader("ten.json", dataset_dir=tmp_path))["root"] == str(tmp_path)
    assert note(loader(ten, dataset_dir=str(tmp_path / "..")))["root"] == str(tmp_path / "..")
    assert note(loader(dataset_dir=ten))["root"] == str(tmp_path)  # --train_dataset_dir data.json
    assert note(loader(ten, dataset_dir=""))["root"] is None
    with pytest.raises(FileNotFoundError, match=r"dataset_dir .*: no such folder"):
        loader(ten, dataset_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="annotation_file"):
        loader(dataset_dir=tmp_path)
    with pytest.raises(ValueError, match="num_samples"):
        loader(ten, num_samples=0)


def test_a_bad_record_stops_the_dataset_with_its_name(tmp_path):
    path = write_list(tmp_path / "data.json", [record(0), {"id": "x7", "conversations": None}])
    with pytest.raises(RuntimeError, match=r"data\.json, sample 1, id 'x7': expected an object with a list"):
        epochs(loader(path, shuffle=False))
