"""Rows to the columns that the network takes, in training and in prediction. Python and numpy.

Column names, shapes and dtypes, with B rows, S tokens, N images of Q slots each:

- `input_ids` int32 [B, S], padded on the right;
- `labels` int32 [B, S] (training), IGNORE where not trained;
- `images` [B, N, ...]: float32 [3, H, W] each in prediction;
- `image_context_pos` int32 [B, N, Q, 2] of (row, position). Rows with fewer images are filled up with black ones at
  NO_POSITION, which the network leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mindformers_qwenvl.text.rows import IGNORE, ImageSpan, Row

__all__ = ["NO_POSITION", "batch_columns", "image_positions", "training_columns"]

NO_POSITION = -1  # position of the slots of a black image that only fills up a row


def image_positions(spans: Sequence[ImageSpan], count: int, slots: int, row: int = 0) -> np.ndarray:
    """image_context_pos of one row: int32 [count, slots, 2] of (row, position).

    Args:
        spans: of the images of the row, at most `count`; the remaining images are at NO_POSITION.
        count: images to make room for.
        slots: tokens of an image.
        row: its number in the batch.
    """
    positions = np.full((count, slots, 2), NO_POSITION, np.int32)
    positions[:, :, 0] = row
    for image, span in zip(positions, spans, strict=False):
        image[:, 1] = np.arange(span.start, span.stop)
    return positions


def training_columns(row: Row, length: int, pad_token_id: int, images: int, slots: int) -> dict[str, np.ndarray]:
    """The columns of one training sample, without its pictures: input_ids and labels int32 [length],
    image_context_pos int32 [images, slots, 2]. The host would pad too, but slowly (`np.pad`)."""
    return {
        "input_ids": _padded(row.input_ids, length, pad_token_id),
        "labels": _padded(row.labels, length, IGNORE),
        "image_context_pos": image_positions(row.spans, images, slots),
    }


def batch_columns(
    rows: Sequence[Mapping[str, Any]],
    pad_token_id: int,
    *,
    length: int | None = None,
    black_image: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """Columns of a batch of prompts.

    Args:
        rows: for each prompt, `input_ids` int32 [L]; and if it has n images, `images`, n arrays float32 [3, H, W], and
            `image_context_pos` int32 [n, Q, 2].
        pad_token_id: fills rows up to `length`.
        length: tokens of a row; None: as many as the longest row has.
        black_image: (H, Q): a batch without images gets one black image of this size. None: it gets no columns for
            images, and the vision tower has nothing to do.

    Returns:
        input_ids int32 [B, S]; images float32 [B, N, 3, H, W] and image_context_pos int32 [B, N, Q, 2], where N is the
        largest number of images in a row.
    """
    length = max(len(row["input_ids"]) for row in rows) if length is None else length
    columns = {"input_ids": np.stack([_padded(row["input_ids"], length, pad_token_id) for row in rows])}
    pictures = [row.get("images", ()) for row in rows]
    count = max(map(len, pictures))
    if count:
        row = next(row for row in rows if len(row.get("images", ())))
        shape, slots = np.shape(row["images"][0]), np.shape(row["image_context_pos"])[1]
    elif black_image is not None:
        count, shape, slots = 1, (3, black_image[0], black_image[0]), black_image[1]
    else:
        return columns
    images = np.zeros((len(rows), count, *shape), np.float32)
    positions = np.stack([image_positions((), count, slots, number) for number in range(len(rows))])
    for number, row in enumerate(rows):
        for place, picture in zip(images[number], pictures[number], strict=False):
            place[...] = picture
        found = row.get("image_context_pos", ())
        if len(found):
            positions[number, : len(found), :, 1] = np.asarray(found)[..., 1]
    return {**columns, "images": images, "image_context_pos": positions}


def _padded(values: np.ndarray, length: int, filler: int) -> np.ndarray:
    padded = np.full(length, filler, np.int32)
    padded[: len(values)] = values
    return padded
