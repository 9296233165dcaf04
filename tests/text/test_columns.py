"""Rows to the columns of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_qwenvl.text.columns import batch_columns, image_positions, training_columns
from mindformers_qwenvl.text.layout import training_sample
from mindformers_qwenvl.text.rows import IGNORE
from tests.support.layouts import small_vocabulary

SMALL = small_vocabulary("a56")


def rows_with_none_one_and_two_images():
    """(pieces of text, rows as `batch_columns` takes them)."""
    texts = ("hi", "<img>a</img>b", "c<img>a</img><img>b</img>")
    prompts = [SMALL.encode_with_images(text) for text in texts]
    pictures = [[np.full((3, 4, 4), value, np.float32) for value in row] for row in ((), (1,), (2, 3))]
    return prompts, [
        {
            "input_ids": np.array(prompt.ids, np.int32),
            "images": shown,
            "image_context_pos": image_positions(prompt.spans, len(shown), 16),
        }
        for prompt, shown in zip(prompts, pictures, strict=True)
    ]


@pytest.mark.parametrize("length", [None, 60])
def test_columns_of_rows_with_none_one_and_two_images(length):
    prompts, rows = rows_with_none_one_and_two_images()
    batch = batch_columns(rows, SMALL.eod_id, length=length)
    width = max(map(len, prompts)) if length is None else length
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
        "input_ids": (np.int32, (3, width)),
        "images": (np.float32, (3, 2, 3, 4, 4)),
        "image_context_pos": (np.int32, (3, 2, 16, 2)),
    }
    assert batch["images"][:, :, 0, 0, 0].tolist() == [[0, 0], [1, 0], [2, 3]]
    for row, prompt in enumerate(prompts):
        assert batch["input_ids"][row].tolist() == prompt.ids + [SMALL.eod_id] * (width - len(prompt))
        for number in range(2):
            found = batch["image_context_pos"][row, number]
            assert set(found[:, 0]) == {row}
            spans = [range(span.start, span.stop) for span in prompt.spans]
            assert found[:, 1].tolist() == (list(spans[number]) if number < len(spans) else [-1] * 16)


def test_a_batch_without_images_has_no_columns_for_them_or_one_black_one():
    _, rows = rows_with_none_one_and_two_images()
    assert list(batch_columns(rows[:1], SMALL.eod_id)) == ["input_ids"]
    batch = batch_columns([{"input_ids": rows[0]["input_ids"]}], SMALL.eod_id, black_image=(4, 16))
    assert batch["images"].shape == (1, 1, 3, 4, 4) and not batch["images"].any()
    assert (batch["image_context_pos"][..., 1] == -1).all() and batch["image_context_pos"].shape == (1, 1, 16, 2)
    with_images = batch_columns(rows, SMALL.eod_id, black_image=(4, 16))  # then it changes nothing
    for name, array in batch_columns(rows, SMALL.eod_id).items():
        np.testing.assert_array_equal(with_images[name], array)


def test_columns_of_a_training_sample():
    row = training_sample([("user", "<img>a.png</img>x"), ("assistant", "y")], SMALL, max_length=100)
    columns = training_columns(row, 101, SMALL.eod_id, 2, 16)
    assert {name: (array.dtype, array.shape) for name, array in columns.items()} == {
        "input_ids": (np.int32, (101,)),
        "labels": (np.int32, (101,)),
        "image_context_pos": (np.int32, (2, 16, 2)),
    }
    assert (columns["input_ids"][len(row) :] == SMALL.eod_id).all() and (columns["labels"][len(row) :] == IGNORE).all()
    np.testing.assert_array_equal(columns["labels"][: len(row)], row.labels)
    [span] = row.spans
    assert columns["image_context_pos"][0, :, 1].tolist() == list(range(span.start, span.stop))
    assert (columns["image_context_pos"][1, :, 1] == -1).all()
