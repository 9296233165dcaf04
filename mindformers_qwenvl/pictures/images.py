"""The pixels that the network sees: a picture opened, resized to a square, normalised. Pillow and numpy only.

They equal those of the original Qwen-VL (`visual.py`, `VisionTransformer.encode`): Pillow's antialiasing bicubic, then
`x / 255`, CLIP mean and standard deviation. How pictures are opened: `opening.py`. Where they may come from and how
large they may be: `policy.py`. Their public names can be imported from here too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mindformers_qwenvl.checks import whole
from mindformers_qwenvl.pictures.opening import (
    ImageSource,
    StartedImage,
    image_name,
    open_image,
    source_name,
    start_image,
)
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "INTERPOLATIONS",
    "ImageError",
    "ImagePolicy",
    "ImageRefusedError",
    "ImageSource",
    "ImageTransform",
    "StartedImage",
    "image_name",
    "open_image",
    "resize_square",
    "source_name",
    "start_image",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# The names that MindFormers' transforms use, next to Pillow's.
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "antialias": Image.Resampling.LANCZOS,
}


def resize_square(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """`image` (RGB) resized to `size` x `size`: first along its rows, rounded to uint8, then along its columns.

    That is what one call of `resize` did in Pillow up to 11, and so what the original saw. Pillow 12 and 13 choose the
    order by shape, and bicubic pixels then differ by up to 13 levels. Two calls, one per axis, fix the order.
    """
    return image.resize((size, image.height), resample).resize((size, size), resample)


@dataclass(frozen=True)
class ImageTransform:
    """What happens to every picture: it is opened, resized to a square of `size` pixels a side, and normalised."""

    size: int = 448
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    exif_rotation: bool = False
    policy: ImagePolicy = field(default_factory=ImagePolicy)

    def __post_init__(self) -> None:
        whole("image_size", self.size, note="pictures become squares")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r}: expected one of {', '.join(INTERPOLATIONS)}")
        for name in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, name))
            if len(value) != 3 or (name == "std" and min(value) <= 0):
                limit = " above 0" if name == "std" else ""
                raise ValueError(f"image {name} must be three numbers{limit} (R, G, B), got {value}")
            object.__setattr__(self, name, value)

    def pixels(self, source: ImageSource, *, root: str | os.PathLike[str] | None = None) -> np.ndarray:
        """The picture as uint8 [size, size, 3]; errors as in `open_image`."""
        image = open_image(source, root=root, exif_rotation=self.exif_rotation, policy=self.policy)
        return np.asarray(resize_square(image, self.size, INTERPOLATIONS[self.interpolation]))

    def stack(
        self, sources: Sequence[ImageSource], *, root: str | os.PathLike[str] | None = None, count: int | None = None
    ) -> np.ndarray:
        """The pictures as uint8 [N, size, size, 3]; N may be 0. With `count`, black pictures fill up to that number."""
        count = len(sources) if count is None else count
        if count < len(sources):
            raise ValueError(f"{len(sources)} pictures do not fit into {count}")
        if (
            len(sources) == count == 1
        ):  # without a copy; reshape, because MindSpore takes 5 ms to read the strides of [None]
            return self.pixels(sources[0], root=root).reshape(1, self.size, self.size, 3)
        pictures = np.empty((count, self.size, self.size, 3), np.uint8)
        pictures[len(sources) :] = 0
        for picture, source in zip(pictures, sources, strict=False):
            picture[...] = self.pixels(source, root=root)
        return pictures

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W]: `(pixels / 255 - mean) / std`, within 3e-7."""
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 [..., H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        out = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), np.float32)
        for channel in range(3):  # one channel at a time fits the processor's cache
            values = out[..., channel, :, :]
            values[...] = pixels[..., channel]
            values *= np.float32(1 / (255 * self.std[channel]))
            values -= np.float32(self.mean[channel] / self.std[channel])
        return out
