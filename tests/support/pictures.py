"""Pictures for tests: drawn ones, and the golden pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.golden import GOLDEN, GoldenSet, golden_set


def draw(path: Path, *, size: tuple[int, int] = (20, 12), seed: int = 0) -> Path:
    """Write an RGB picture of noise, `size` = (width, height), and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def golden_images(name: str) -> list[int]:
    """The pictures whose pixels set `name` holds (c448 leaves some out for their size)."""
    return [index for index in range(4) if f"image.{index}" in golden_set(name).arrays]


def pixel_goldens() -> list[dict]:
    """Of each picture of golden/pixels and each size: `image`, `image_size`, and the `sha256` of its pixels."""
    return json.loads((GOLDEN / "pixels" / "pixels.json").read_text())


def assert_golden_pixels(image: np.ndarray, golden: GoldenSet, index: int) -> None:
    """`image` float32 [3, H, W] is golden image `index` to 1e-6; the golden array is thinned as its README says."""
    key = f"image.{index}"
    arrays = golden.arrays
    assert image.dtype == np.float32
    assert list(image.shape) == list(arrays[f"{key}#shape"])
    rows = image.reshape(-1, image.shape[-1])
    thinned = rows[:: max(1, len(rows) // 16)][:24, :512]
    np.testing.assert_allclose(thinned.reshape(arrays[key].shape), arrays[key], rtol=0, atol=1e-6)
    whole = image.astype(np.float64)
    sums = [whole.sum(), np.abs(whole).sum(), np.square(whole).sum()]
    np.testing.assert_allclose(sums, arrays[f"{key}#sum"], rtol=1e-6, atol=1e-6 * whole.size)
