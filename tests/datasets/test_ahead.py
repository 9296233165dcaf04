"""What the loader's thread prepares: the same rows and errors as without, in a real dataset; and lost tickets."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from pathlib import Path
from threading import get_ident

import numpy as np
import pytest
from mindspore.dataset import config as dataset_config

from mindformers_qwenvl.datasets import loader as loader_module
from mindformers_qwenvl.datasets.ahead import PreparedSamples, prepared
from mindformers_qwenvl.datasets.annotations import SampleNote
from mindformers_qwenvl.datasets.loader import QwenVLDataLoader
from tests.support.pictures import draw
from tests.support.transforms import SLOTS, stock_transform

COUNT = 12
COLUMNS = ["input_ids", "images", "image_context_pos", "labels"]
NOTE = SampleNote("here")
TURNS = [("user", "q"), ("assistant", "r")]


def write_samples(folder: Path) -> Path:
    """Samples of no, one and two pictures, PNG, JPEG and grey ones among them."""
    records = []
    for number in range(COUNT):
        names = [f"{number}_{n}.{('png', 'jpg')[n]}" for n in range(number % 3)]
        for seed, name in enumerate(names):
            draw(folder / name, seed=10 * number + seed)
        text = "".join(f"<img>{name}</img>" for name in names) + f"question {number}"
        turns = [{"from": "user", "value": text}, {"from": "assistant", "value": "an answer " * number}]
        records.append({"id": number, "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(autouse=True)
def short_queues():
    """Queues of one sample: the loader cannot read all samples before the transform has begun with the first."""
    before = dataset_config.get_prefetch_size()
    dataset_config.set_prefetch_size(1)
    yield
    dataset_config.set_prefetch_size(before)


def read_all(path: Path, transform, loader: QwenVLDataLoader | None = None) -> list:
    """Every row, in one thread for the loader and one for the transform."""
    loader = loader or QwenVLDataLoader(path, dataset_dir=str(path.parent), shuffle=False)
    dataset = loader.map(transform, input_columns=["conversations"], output_columns=COLUMNS, num_parallel_workers=1)
    return list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))


def test_rows_are_the_same_and_come_from_the_loader(small, tmp_path, monkeypatch):
    path = write_samples(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loader_module, "WORKERS_SERVED", 0)
        loader = QwenVLDataLoader(path, dataset_dir=str(tmp_path), shuffle=False)
        assert loader.source.prepared is None
        without = read_all(path, stock_transform(small, 160), loader)
    assert (without[5][2][:2, :, 1] >= 0).all() and without[5][2].shape == (3, SLOTS, 2)
    for _ in range(2):
        loader = QwenVLDataLoader(path, dataset_dir=str(tmp_path), shuffle=False)
        ahead = loader.source.prepared
        transform = stock_transform(small, 160)
        samples = transform.model_transform_template.training
        readers, workers = recorded(ahead, "offer"), recorded(samples, "lay_out")
        rows = read_all(path, transform, loader)
        assert len(rows) == COUNT
        for got, want in zip(rows, without, strict=True):
            for left, right in zip(got, want, strict=True):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)
        assert not ahead.ready  # taken, all of them
        assert len(workers) == COUNT  # nothing was done twice
        assert len(set(readers)) == 1
        assert workers[0] != readers[0]  # the transform's thread had to begin
        assert workers[-1] == readers[0]  # the loader's went on
        assert len(set(workers)) == 2


def recorded(owner: object, method: str) -> list[int]:
    """Threads that call this method of `owner` from now on, call by call."""
    calls: list[int] = []
    stock = getattr(owner, method)

    def record(*args):
        calls.append(get_ident())
        return stock(*args)

    setattr(owner, method, record)
    return calls


@pytest.mark.parametrize("served", [4, 0])
@pytest.mark.parametrize("fault", ["missing", "broken", "outside"])
def test_errors_are_the_same(fault, served, small, tmp_path, monkeypatch):
    monkeypatch.setattr(loader_module, "WORKERS_SERVED", served)
    path = write_samples(tmp_path)
    picture = tmp_path / "11_0.png"
    picture.unlink()
    reason = {"missing": "no such file", "broken": "not a readable image", "outside": "outside dataset_dir"}[fault]
    if fault == "broken":
        picture.write_bytes(b"no picture")
    elif fault == "outside":
        picture.symlink_to(draw(tmp_path.parent / f"{tmp_path.name}_outside.png"))
    with pytest.raises(RuntimeError, match=rf"(?s)sample 11.*id 11.*{picture.name}.*{reason}"):
        read_all(path, stock_transform(small, 160))


def prepare(turns, note):
    return (turns[0][1], note.where)


def other(turns, note):
    return "other"


def test_the_first_sample_says_how():
    ahead = PreparedSamples()
    note = ahead.offer(TURNS, NOTE)
    assert (note.loader, note.ticket, ahead.ready) == (ahead.number, None, {})
    assert prepared(TURNS, note, prepare) == ("q", "here")
    note = ahead.offer(TURNS, NOTE)
    assert len(ahead.ready) == 1
    assert prepared([("user", "what was offered goes")], note, prepare) == ("q", "here")
    assert not ahead.ready


def test_lost_tickets_and_other_templates_do_the_work_themselves():
    ahead = PreparedSamples(kept=5)
    ahead.prepare = prepare
    notes = [ahead.offer([("user", str(number))], NOTE) for number in range(8)]
    assert len(ahead.ready) == 5
    for number, note in enumerate(notes):
        assert prepared([("user", f"self {number}")], note, prepare)[0] == (
            f"self {number}" if number < 3 else str(number)
        )
    assert prepared(TURNS, notes[-1], prepare) == ("q", "here")  # twice
    note = ahead.offer(TURNS, NOTE)
    assert prepared(TURNS, note, other) == "other"
    assert ahead.prepare is other
    assert prepared(TURNS, NOTE, prepare) == prepared(TURNS, SampleNote("here", loader=10**9, ticket=0), prepare)


def test_an_error_waits_for_its_sample():
    def fail(turns, note):
        raise FileNotFoundError(turns[0][1])

    ahead = PreparedSamples()
    ahead.prepare = fail
    notes = [ahead.offer([("user", name)], NOTE) for name in ("a", "b")]
    for name, note in zip("ab", notes, strict=True):
        with pytest.raises(FileNotFoundError, match=name):
            prepared(TURNS, note, fail)


def test_copies_are_one_and_another_process_has_its_own():
    ahead = PreparedSamples()
    assert copy.deepcopy(ahead) is ahead
    assert pickle.loads(pickle.dumps(ahead)).number != ahead.number
    note = ahead.offer(TURNS, NOTE)
    del ahead
    gc.collect()
    assert prepared(TURNS, note, prepare) == ("q", "here")
