"""Normalising in one step, against MindFormers' two."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_qwenvl.data.normalise import QwenVLBatchNormalize
from tests.support.golden import golden_set
from tests.support.pictures import assert_golden_pixels


@pytest.mark.parametrize("settings", [{}, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}])
def test_it_is_what_the_two_stock_transforms_give(settings):
    from mindformers.dataset.transforms.vision_transforms import BatchNormalize, BatchToTensor

    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected = BatchNormalize(**settings)(BatchToTensor()(pictures))
    given = QwenVLBatchNormalize(**settings)(pictures)
    assert given.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)


def test_golden_pixels():
    golden = golden_set("a56")
    transform = QwenVLBatchNormalize()
    from mindformers_qwenvl.pictures.images import ImageTransform

    pixels = ImageTransform(golden.config["visual"]["image_size"]).pixels(golden.image(0))
    assert_golden_pixels(transform(pixels[None])[0], golden, 0)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        QwenVLBatchNormalize()(np.zeros((1, 3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="three numbers"):
        QwenVLBatchNormalize(mean=[1.0])
