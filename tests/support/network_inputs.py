"""Golden prompts and batches as inputs of the network. Everything on the way is the production code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindformers_qwenvl.pictures.images import ImageTransform
from tests.support.golden import SETS, GoldenSet

PROMPTS = ("text", "one_image", "two_images", "multi_turn", "raw_caption", "image_last")
BATCH_IMAGES = {"batch0": [0], "batch1": [1, 2], "batch2": [3, 2], "text_only": []}
BATCH_ROWS = ("one_image", "text", "two_images")  # of batch_right


def only(name: str) -> pytest.MarkDecorator:
    """For a test, and the networks it asks for, of that golden set alone."""
    return pytest.mark.parametrize("golden", [name], indirect=True)


def all_but_slow(name: str) -> pytest.MarkDecorator:
    """For a test of every golden set: those but `name` are slow, as each compiles for itself."""
    sets = [name, *(pytest.param(other, marks=pytest.mark.slow) for other in SETS if other != name)]
    return pytest.mark.parametrize("golden", sets, indirect=True)


@dataclass
class Inputs:
    """input_ids int32 [B, S], images float32 [B, N, 3, H, W], positions int32 [B, N, Q, 2]; no images: N filler."""

    input_ids: np.ndarray
    images: np.ndarray
    positions: np.ndarray

    @property
    def tensors(self) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        return ms.Tensor(self.input_ids), ms.Tensor(self.images), ms.Tensor(self.positions)


def pixels(golden: GoldenSet, index: int | str) -> np.ndarray:
    transform = ImageTransform(golden.config["visual"]["image_size"])
    return transform.normalise(transform.pixels(golden.image(index)))


def spans(golden: GoldenSet, ids: np.ndarray) -> list[tuple[int, int]]:
    """Slots of each image in one row, half-open."""
    special = golden.meta["special_ids"]
    starts = np.flatnonzero(ids == special["img_start_id"]) + 1
    return list(zip(starts, np.flatnonzero(ids == special["img_end_id"]), strict=True))


def named_images(golden: GoldenSet, ids: np.ndarray) -> list[str]:
    """The original leaves the path of an image in its slots, as raw bytes: `.../2.png` -> `2`."""
    paths = [bytes(int(b) for b in ids[start:stop] if b < 256).decode() for start, stop in spans(golden, ids)]
    return [re.search(r"(\d)\.png$", path).group(1) for path in paths]


def inputs(golden: GoldenSet, rows: np.ndarray, images: list[list[int | str]], room: int = 1) -> Inputs:
    """Rows of golden ids [B, S] with the images of each row, as inputs of the network; N is at least `room`."""
    queries = golden.meta["n_queries"]
    size = golden.config["visual"]["image_size"]
    rows = np.array(rows, np.int32)
    count = max(room, *(len(row) for row in images))
    pictures = np.zeros((len(rows), count, 3, size, size), np.float32)
    positions = np.full((len(rows), count, queries, 2), -1, np.int32)
    positions[..., 0] = np.arange(len(rows))[:, None, None]
    for row, ids in enumerate(rows):
        for index, (start, stop) in enumerate(spans(golden, ids)):
            ids[start:stop] = golden.meta["special_ids"]["img_pad_id"]
            positions[row, index, :, 1] = np.arange(start, stop)
            pictures[row, index] = pixels(golden, images[row][index])
    return Inputs(rows, pictures, positions)


def prompt(golden: GoldenSet, name: str) -> Inputs:
    ids = golden.arrays[f"ids.{name}"]
    return inputs(golden, ids[None], [named_images(golden, ids)])


def training_batch(golden: GoldenSet, name: str) -> tuple[ms.Tensor, ...]:
    """input_ids, images, positions, labels of `train.NAME`, with room for as many images as any batch has in a row:
    one graph does for all of a length."""
    room = max(len(spans(golden, row)) for other in BATCH_IMAGES for row in golden.arrays[f"train.{other}.input_ids"])
    ids = golden.arrays[f"train.{name}.input_ids"]
    left = iter(BATCH_IMAGES[name])
    images = [[next(left) for _ in spans(golden, row)] for row in ids]
    return (*inputs(golden, ids, images, room).tensors, ms.Tensor(golden.arrays[f"train.{name}.labels"]))


def thinned(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`array` as the golden files keep large ones: 24 rows and 512 columns at most (see data/golden/README.md)."""
    flat = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array
    if flat.shape == like.shape:
        return flat
    return flat[:: max(1, len(flat) // 16)][:24, :512]


COLUMNS = ("input_ids", "images", "image_context_pos", "labels")


def write_batches(golden, path: Path) -> None:
    """The three golden batches with room for as many pictures each, so that one graph does for all."""
    batches = [[part.asnumpy() for part in training_batch(golden, f"batch{number}")] for number in range(3)]
    most = max(images.shape[1] for _, images, _, _ in batches)
    arrays = {}
    for number, (ids, images, positions, labels) in enumerate(batches):
        more = [(0, 0), (0, most - images.shape[1])]
        images = np.pad(images, [*more, (0, 0), (0, 0), (0, 0)])
        positions = np.pad(positions, [*more, (0, 0), (0, 0)], constant_values=-1)
        positions[..., 0] = np.arange(len(ids))[:, None, None]
        columns = zip(COLUMNS, (ids, images, positions, labels), strict=True)
        arrays |= {f"{number}.{column}": array for column, array in columns}
    np.savez(path, **arrays)
