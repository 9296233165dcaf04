"""Pictures to pixels, as the stock pipeline asks for them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.golden import SETS, golden_set
from tests.support.pictures import assert_golden_pixels, golden_images


@pytest.mark.parametrize("name", SETS)
def test_image_processor_gives_the_golden_pixels(name):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    golden = golden_set(name)
    processor = QwenVLImageProcessor(image_size=golden.config["visual"]["image_size"])
    for index in golden_images(name):
        for picture in (str(golden.image(index)), [golden.image(index)], Image.open(golden.image(index))):
            pixels = processor(picture).asnumpy()
            assert len(pixels) == 1
            assert_golden_pixels(pixels[0], golden, index)


def test_image_processor_takes_batches(tmp_path):
    from mindspore import Tensor

    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    processor = QwenVLImageProcessor(image_size=28)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 10, 20, 3), dtype=np.uint8)
    want = processor([Image.fromarray(picture) for picture in pictures]).asnumpy()
    assert want.shape == (3, 3, 28, 28)
    for batch in (pictures, Tensor(pictures), list(pictures)):
        np.testing.assert_array_equal(processor(batch).asnumpy(), want)
    np.testing.assert_array_equal(processor(pictures[0]).asnumpy(), want[:1])
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        processor(["no.png"])
    with pytest.raises(ValueError, match="is_hwc"):
        QwenVLImageProcessor(is_hwc=True)


def test_image_processor_round_trip(tmp_path):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    processor = QwenVLImageProcessor(image_size=28, mean=(0.1, 0.2, 0.3), exif_rotation=True)
    processor.save_pretrained(str(tmp_path))
    again = QwenVLImageProcessor.from_pretrained(str(tmp_path))
    assert again.config == processor.config and again.config["exif_rotation"] is True
