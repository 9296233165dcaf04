"""Where the vectors of images are put into the text."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindformers_qwenvl.model.image_merge import ImageMerge

ROWS, IMAGES, QUERIES, LENGTH, WIDTH = 4, 2, 3, 12, 5


def case(seed: int):
    """Text, images and positions with the first image of row 0 a filler, and what must come out."""
    draw = np.random.default_rng(seed)
    text = draw.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    images = draw.normal(size=(ROWS * IMAGES, QUERIES, WIDTH)).astype(np.float32)
    positions = np.zeros((ROWS, IMAGES, QUERIES, 2), np.int32)
    merged = text.copy()
    for row in range(ROWS):
        positions[row, ..., 0] = row
        places = draw.choice(LENGTH, IMAGES * QUERIES, replace=False).reshape(IMAGES, QUERIES)
        if row == 0:
            places[0] = -1
        positions[row, ..., 1] = places
        for image in range(IMAGES):
            for query in range(QUERIES):
                if places[image, query] >= 0:
                    merged[row, places[image, query]] = images[row * IMAGES + image, query]
    return text, images, positions, merged


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_land_where_they_belong(dtype):
    text, images, positions, merged = case(0)
    found = ImageMerge()(ms.Tensor(text.astype(dtype)), ms.Tensor(images.astype(dtype)), ms.Tensor(positions))
    np.testing.assert_array_equal(found.asnumpy(), merged.astype(dtype))


def test_rows_may_be_counted_on_each_card():
    """With full_batch: False, each card's data counts rows from 0; in the batch that all cards share, they count on."""
    text, images, positions, merged = case(1)
    positions[..., 0] %= ROWS // 2  # as two cards would write them
    found = ImageMerge()(ms.Tensor(text), ms.Tensor(images), ms.Tensor(positions))
    np.testing.assert_array_equal(found.asnumpy(), merged)
