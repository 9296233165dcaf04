"""Pictures: open, resize, normalise. Pillow and numpy only.

The pixels are those of the original Qwen-VL (`visual.py`, `VisionTransformer.encode`): first frame, `convert("RGB")`
(alpha is dropped, not blended), Pillow's antialiasing bicubic to a square, `x / 255`, CLIP mean and deviation. Like
there, an EXIF orientation is ignored unless `exif_rotation` asks for it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# From here on Pillow only warns of a decompression bomb; 89 megapixels are 270 MB once decoded.
MAX_PIXELS = 89_478_485

# The names MindFormers' transforms use, next to Pillow's.
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "antialias": Image.Resampling.LANCZOS,
}


class ImageError(ValueError):
    """A picture that cannot be used; the message names it and says why."""


def open_image(
    source: ImageSource,
    *,
    root: str | os.PathLike[str] | None = None,
    exif_rotation: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The picture `source`, decoded, as an RGB Pillow image of its own size.

    Args:
        source: a path, a `file://` address, the bytes of an image file, a Pillow image, or an array uint8 [H, W],
            [H, W, 1], [H, W, 3] or [H, W, 4].
        root: folder that a relative path starts from.
        exif_rotation: turn the picture as its EXIF orientation says.
        max_pixels: refuse larger ones before decoding them.

    Raises:
        FileNotFoundError: no file at the path.
        ImageError: not a picture, broken, too large, or a kind of source that is not supported.
    """
    name = source_name(source)
    if isinstance(source, np.ndarray):
        source = _from_array(source, name)
    if isinstance(source, Image.Image):
        return _to_rgb(source, name, exif_rotation, max_pixels)
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else _path(source, root)
    if isinstance(file, Path):
        name = str(file)
        if not file.is_file():
            raise FileNotFoundError(f"image {name}: {'a folder, not a file' if file.is_dir() else 'no such file'}")
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ImageError(f"image {name}: too large ({error})") from error
    except Exception as error:  # a damaged header raises whatever the format's reader stumbles over
        raise ImageError(f"image {name}: not a readable image ({_reason(error, name)})") from error
    with image:
        return _to_rgb(image, name, exif_rotation, max_pixels)


def source_name(source: Any) -> str:
    """How messages call `source`: its path, or what it is."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image {source.width}x{source.height}>"
    if isinstance(source, np.ndarray):
        return f"<array {source.dtype} {list(source.shape)}>"
    return f"<{type(source).__name__}>"


def is_web_address(source: Any) -> bool:
    """Whether `source` is an http(s) address."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class ImageTransform:
    """What is done to every picture: open, resize to a square of `size` pixels, normalise."""

    size: int = 448
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    exif_rotation: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size <= 0:
            raise ValueError(f"image_size must be a positive whole number (pictures become squares), got {self.size!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r}: expected one of {', '.join(INTERPOLATIONS)}")
        for name in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, name))
            if len(value) != 3 or (name == "std" and min(value) <= 0):
                raise ValueError(f"image {name} must be three numbers (R, G, B; std above 0), got {value}")
            object.__setattr__(self, name, value)

    def pixels(self, source: ImageSource, *, root: str | os.PathLike[str] | None = None) -> np.ndarray:
        """The picture as uint8 [size, size, 3]; errors as in `open_image`."""
        image = open_image(source, root=root, exif_rotation=self.exif_rotation)
        return np.asarray(image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation]))

    def stack(self, sources: Sequence[ImageSource], *, root: str | os.PathLike[str] | None = None) -> np.ndarray:
        """The pictures as uint8 [N, size, size, 3]; N may be 0."""
        pictures = np.empty((len(sources), self.size, self.size, 3), np.uint8)
        for picture, source in zip(pictures, sources, strict=True):
            picture[...] = self.pixels(source, root=root)
        return pictures

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W], `(pixels / 255 - mean) / std` in float32."""
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 [..., H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        out = np.ascontiguousarray(np.moveaxis(pixels, -1, -3)).astype(np.float32)
        out /= np.float32(255)
        out -= np.float32(self.mean)[:, None, None]
        out /= np.float32(self.std)[:, None, None]
        return out


def _path(source: Any, root: str | os.PathLike[str] | None) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"image {source_name(source)}: expected a path, a file:// address, bytes, a Pillow image or a uint8 array"
        )
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ImageError(f"image {text!r}: not a file name")
    if is_web_address(text):
        raise ImageError(f"image {text}: a web address; download the picture and give the path of the file")
    if text.lower().startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ImageError(f"image {text}: a file:// address of another machine ({parts.netloc})")
        text = unquote(parts.path)
    path = Path(text)
    return Path(root) / path if root and not path.is_absolute() else path


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"image {name}: an array must be uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array))


def _to_rgb(image: Image.Image, name: str, exif_rotation: bool, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"image {name}: {width}x{height} pixels, more than the {max_pixels} allowed")
    if width * height == 0:
        raise ImageError(f"image {name}: empty, {width}x{height} pixels")
    try:
        if exif_rotation:
            image = ImageOps.exif_transpose(image)
        return image.convert("RGB")
    except Exception as error:  # damaged pixels raise whatever the format's reader stumbles over
        raise ImageError(f"image {name}: broken ({_reason(error, name)})") from error


def _reason(error: Exception, name: str) -> str:
    text = str(error) or type(error).__name__
    return "unknown or damaged format" if "cannot identify image file" in text else text.replace(name, "the file")
