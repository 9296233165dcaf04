"""Pictures of prompts that are given only as token ids: `generate(**tokenizer(query))`, as in the original's README.

The paths are in the slots, see text/slot_paths.py. numpy and Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.text.columns import NO_POSITION, batch_columns, image_positions
from mindformers_qwenvl.text.rows import ImageSpan
from mindformers_qwenvl.text.slot_paths import path_from_slots

__all__ = ["Slots", "check_covered", "find_slots", "opened_columns", "positions_of"]

WITHOUT = (
    "has no picture: give the tokenizer a text with the path of the picture in it, <img>path</img>, and pass its ids "
    "unchanged; or call a QwenVLProcessor or chat(); or pass images= and image_context_pos="
)


@dataclass(frozen=True)
class Slots:
    """The slots of one image in a batch of ids. path: what is written in them; None: only pads."""

    row: int
    span: ImageSpan
    path: str | None


def find_slots(ids: np.ndarray, image_start_id: int, slots: int) -> list[Slots]:
    """The images of ids [B, S], row by row: <img>, that many slots, </img>. A lone tag is text.

    Raises:
        ValueError: an image has a different number of slots, or its slots hold something other than a path.
    """
    found = []
    end = image_start_id + 1
    for row, column in zip(*np.nonzero(ids == image_start_id), strict=True):
        span = ImageSpan(int(column) + 1, int(column) + 1 + slots)
        ends = np.flatnonzero(ids[row, span.start :] == end)
        if not len(ends):
            continue
        if ends[0] != slots:
            raise ValueError(
                f"row {row}: the image at token {column} has {ends[0]} slots, but the network has {slots} per image "
                f"(num_queries): use QwenVLTokenizer(..., image_slots={slots})"
            )
        try:
            path = path_from_slots(ids[row, span.start : span.stop], image_start_id + 2)
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
        found.append(Slots(int(row), span, path))
    return found


def opened_columns(
    found: Sequence[Slots], rows: int, transform: ImageTransform, pad_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """images float32 [B, N, 3, H, W] and image_context_pos int32 [B, N, Q, 2] of the images in a batch of `rows`.

    Raises:
        ValueError: an image has no path in its slots.
        FileNotFoundError, ImageError: a picture cannot be used; names it and says why.
    """
    for image in found:
        if image.path is None:
            raise ValueError(f"row {image.row}: the image at token {image.span.start - 1} {WITHOUT}")
    batch = []
    for row in range(rows):
        own = [image for image in found if image.row == row]
        pixels = transform.normalise(transform.stack([image.path for image in own])) if own else ()
        positions = positions_of(own, len(own)) if own else ()
        batch.append({"input_ids": np.zeros(1, np.int32), "images": pixels, "image_context_pos": positions})
    columns = batch_columns(batch, pad_token_id)
    return columns["images"], columns["image_context_pos"]


def positions_of(found: Sequence[Slots], count: int) -> np.ndarray:
    """image_context_pos int32 [count, Q, 2] of the images of one row."""
    slots = found[0].span.stop - found[0].span.start
    return image_positions([image.span for image in found], count, slots, found[0].row)


def check_covered(found: Sequence[Slots], positions: np.ndarray) -> None:
    """Raise ValueError if none of `positions` [B, N, Q, 2], where pictures are put, is that of an image in the ids."""
    for image in found:
        if image.row >= len(positions) or image.span.start not in positions[image.row, :, 0, 1]:
            there = sorted({int(at) - 1 for at in positions[image.row, :, 0, 1] if at != NO_POSITION})
            raise ValueError(
                f"row {image.row}: the image at token {image.span.start - 1} {WITHOUT} (image_context_pos has "
                f"pictures at the tokens {there or 'none'})"
            )
