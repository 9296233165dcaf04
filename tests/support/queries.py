"""Golden queries, and what a processor makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.support.golden import golden_set
from tests.support.layouts import pads_in_images

Q = 16  # slots of an image in a56


def arrays(inputs):
    """(input_ids, images, image_context_pos), after checking their kinds."""
    from mindspore import Tensor

    assert list(inputs) == ["input_ids", "images", "image_context_pos"]
    assert isinstance(inputs["images"], Tensor) and isinstance(inputs["image_context_pos"], Tensor)
    input_ids, images, positions = (
        inputs["input_ids"],
        inputs["images"].asnumpy(),
        inputs["image_context_pos"].asnumpy(),
    )
    assert (input_ids.dtype, images.dtype, positions.dtype) == (np.int32, np.float32, np.int32)
    rows, count = len(input_ids), images.shape[1]
    assert images.shape[0] == rows and positions.shape == (rows, count, Q, 2)
    assert (positions[..., 0] == np.arange(rows)[:, None, None]).all()
    return input_ids, images, positions[..., 1]


def golden_query(tokenizer, name, prompt):
    """(query in list form, golden ids with pads in the images) of a golden prompt with the pictures of its set."""
    golden = golden_set(name)
    ids = golden.arrays[f"ids.{prompt}"].tolist()
    text = re.sub(
        "<img>(.*?)</img>", lambda tag: f"<img>{golden.image(Path(tag[1]).stem)}</img>", tokenizer.decode(ids)
    )
    return [{"text": text}], pads_in_images(ids, tokenizer)
