"""Columns of the network's input that training, prediction and chat lay out alike. Python and numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mindformers_qwenvl.text.layout import IGNORE, ImageSpan, Sample

__all__ = ["NO_POSITION", "image_positions", "training_columns"]

NO_POSITION = -1  # position of the slots of an image that is not there; the network leaves such an image out


def image_positions(spans: Sequence[ImageSpan], count: int, slots: int, row: int = 0) -> np.ndarray:
    """image_context_pos of one row: int32 [count, slots, 2] of (row, position).

    Args:
        spans: of the images of the row, at most `count`; the others are at NO_POSITION.
        row: its number in the batch.
    """
    positions = np.full((count, slots, 2), NO_POSITION, np.int32)
    positions[:, :, 0] = row
    for image, span in zip(positions, spans, strict=False):
        image[:, 1] = np.arange(span.start, span.stop)
    return positions


def training_columns(sample: Sample, length: int, pad_token_id: int, images: int, slots: int) -> dict[str, np.ndarray]:
    """The columns of a training sample, without its pictures: input_ids and labels int32 [length], image_context_pos
    int32 [images, slots, 2]. The host would pad too, by numpy's slow way."""
    columns = {}
    for name, row, value in (("input_ids", sample.input_ids, pad_token_id), ("labels", sample.labels, IGNORE)):
        columns[name] = np.full(length, value, np.int32)
        columns[name][: len(row)] = row
    columns["image_context_pos"] = image_positions(sample.spans, images, slots)
    return columns
