"""Pictures: open, resize, normalise. Pillow and numpy only.

The pixels are those of the original Qwen-VL (`visual.py`, `VisionTransformer.encode`): first frame, `convert("RGB")`
(alpha is dropped, not blended), Pillow's antialiasing bicubic to a square, `x / 255`, CLIP mean and deviation. Like
there, an EXIF orientation is ignored unless `exif_rotation` asks for it. Where pictures may come from and how large
they may be is said by an `ImagePolicy`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps

from mindformers_qwenvl.pictures.fetch import decode_data_uri, fetch, is_data_uri, is_web_address, shorten
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
    "is_data_uri",
    "is_web_address",
    "open_image",
    "resize_square",
    "source_name",
    "start_image",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | StartedImage"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# The names MindFormers' transforms use, next to Pillow's.
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "antialias": Image.Resampling.LANCZOS,
}


READ_WHOLE = 2**24  # bytes; larger files are read as they are decoded

# How files begin that people take for pictures, to say what a file is that cannot be read.
SIGNATURES = (
    (rb"II\*\x00|MM\x00\*", "TIFF"),
    (rb"8BPS", "PSD"),
    (rb"P[1-7]\s", "PPM"),
    (rb"\x00\x00\x01\x00", "ICO"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG2000"),
    (rb"....ftyp(?:avif|avis)", "AVIF"),
    (rb"....ftyp", "HEIF or a video"),
    (rb"%!PS", "EPS"),
    (rb"%PDF", "PDF"),
    (rb"(?i:\s*<(?:\?xml|svg))", "SVG"),
    (rb"(?i:\s*<(?:!doctype html|html))", "HTML"),
)


@dataclass(frozen=True)
class StartedImage:
    """An image file that a policy has let through, its header read and not yet decoded; and how messages call it."""

    name: str
    image: Image.Image


def start_image(
    source: ImageSource, *, root: str | os.PathLike[str] | None = None, policy: ImagePolicy | None = None
) -> ImageSource:
    """What `open_image` does first with the path of a file, and goes on with; any other source as it is.

    Raises:
        FileNotFoundError, ImageRefusedError, ImageError: as `open_image`, where no decoding is needed to know.
    """
    if isinstance(source, NOT_PATHS) or is_web_address(source) or is_data_uri(source):
        return source
    policy = policy or ImagePolicy()
    path, size = _file(source, root, policy)
    name = str(path)
    if size > READ_WHOLE:
        return StartedImage(name, _start(path, name, policy))
    # Read and decoded bit by bit, as Pillow would do it, a thread gives up the interpreter each time.
    image = _start(io.BytesIO(_read(path, name)), name, policy)
    image.decodermaxblock = max(size, image.decodermaxblock)
    return StartedImage(name, image)


def open_image(
    source: ImageSource,
    *,
    root: str | os.PathLike[str] | None = None,
    exif_rotation: bool = False,
    policy: ImagePolicy | None = None,
) -> Image.Image:
    """The picture `source`, decoded, as an RGB Pillow image of its own size.

    Args:
        source: a path, a `file://`, `http://`, `https://` or `data:...;base64,` address, the bytes of an image file, a
            Pillow image, or an array uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
        root: folder that a relative path starts from, and that no path may leave unless the policy says so.
        exif_rotation: turn the picture as its EXIF orientation says.
        policy: where the picture may come from, how large it may be; None is the default `ImagePolicy`.

    Raises:
        FileNotFoundError: no file at the path.
        ImageRefusedError: the policy keeps it out; says which rule and how to allow it.
        ImageError: not a picture, broken, cannot be fetched, or a kind of source that is not supported.
    """
    policy = policy or ImagePolicy()
    source = start_image(source, root=root, policy=policy)
    name = source_name(source)
    if isinstance(source, np.ndarray):
        source = _from_array(source, name)
    if isinstance(source, Image.Image):
        return _to_rgb(source, name, exif_rotation, policy.max_pixels)
    if isinstance(source, StartedImage):
        image = source.image
    else:
        called = ""
        if is_web_address(source):
            download = fetch(source, policy)
            called = f"; the server calls it {download.content_type}" if download.content_type else ""
            source = download.data
        elif is_data_uri(source):
            source = decode_data_uri(source, policy)
        image = _start(io.BytesIO(source), name, policy, called)
    with image:
        return _to_rgb(image, name, exif_rotation, policy.max_pixels, ours=True)


def image_name(image: Any, images: dict[str, Any]) -> Any:
    """What stands for an image in the text of a query: a path or web address itself; for any other a name, under which
    it is put into `images`. A `data:` address has a name too: nobody wants to read its megabytes in an answer."""
    if isinstance(image, str) and not is_data_uri(image):
        return image
    name = os.fspath(image) if isinstance(image, os.PathLike) else f"memory:{len(images) + 1}"
    images[name] = image
    return name


def source_name(source: Any) -> str:
    """How messages call `source`: its path or address, or what it is."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return shorten(text, 40 if is_data_uri(text) else 400) if isinstance(text, str) else repr(text)
    if isinstance(source, StartedImage):
        return source.name
    if isinstance(source, bytes | bytearray):
        return f"<{len(source)} bytes>"
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image {source.width}x{source.height}>"
    if isinstance(source, np.ndarray):
        return f"<array {source.dtype} {list(source.shape)}>"
    return f"<{type(source).__name__}>"


NOT_PATHS = (bytes, bytearray, Image.Image, np.ndarray, StartedImage)


def resize_square(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """`image` (RGB) resized to `size` x `size`: first along its rows, rounded to uint8, then along its columns.

    That is what one call of `resize` did in Pillow up to 11, and so what the original saw. Pillow 12 and 13 choose the
    order by shape, and bicubic pixels then differ by up to 13 levels; two calls, one axis each, leave no choice.
    """
    return image.resize((size, image.height), resample).resize((size, size), resample)


@dataclass(frozen=True)
class ImageTransform:
    """What is done to every picture: open, resize to a square of `size` pixels, normalise."""

    size: int = 448
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    exif_rotation: bool = False
    policy: ImagePolicy = field(default_factory=ImagePolicy)

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
        image = open_image(source, root=root, exif_rotation=self.exif_rotation, policy=self.policy)
        return np.asarray(resize_square(image, self.size, INTERPOLATIONS[self.interpolation]))

    def stack(
        self, sources: Sequence[ImageSource], *, root: str | os.PathLike[str] | None = None, count: int | None = None
    ) -> np.ndarray:
        """The pictures as uint8 [N, size, size, 3]; N may be 0. With `count`, black ones follow up to that number."""
        count = len(sources) if count is None else count
        if count < len(sources):
            raise ValueError(f"{len(sources)} pictures do not fit into {count}")
        if len(sources) == count == 1:  # no copy; reshaped, since MindSpore takes 5 ms to read the strides of [None]
            return self.pixels(sources[0], root=root).reshape(1, self.size, self.size, 3)
        pictures = np.empty((count, self.size, self.size, 3), np.uint8)
        pictures[len(sources) :] = 0
        for picture, source in zip(pictures, sources, strict=False):
            picture[...] = self.pixels(source, root=root)
        return pictures

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W]: `(pixels / 255 - mean) / std` to 3e-7."""
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 [..., H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        out = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), np.float32)
        for channel in range(3):  # one at a time stays in the processor's cache
            values = out[..., channel, :, :]
            values[...] = pixels[..., channel]
            values *= np.float32(1 / (255 * self.std[channel]))
            values -= np.float32(self.mean[channel] / self.std[channel])
        return out


def _file(source: Any, root: str | os.PathLike[str] | None, policy: ImagePolicy) -> tuple[Path, int]:
    """(path, bytes) of the file that `source` means, if it is there and the policy allows it."""
    name = source_name(source)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"image {name}: expected a path, an address (file://, http(s)://, data:), bytes, a Pillow image or a uint8 "
            "array"
        )
    text = os.fspath(source)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ImageError(f"image {name!r}: not a file name")
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text):
        if scheme[1].lower() != "file":
            raise ImageRefusedError(name, f"{scheme[1]}:// is not read; file, http, https and data: addresses are")
        parts = urlsplit(text)
        if parts.netloc.lower() not in ("", "localhost"):
            raise ImageError(f"image {name}: a file:// address of another machine ({parts.netloc})")
        text = unquote(parts.path)
    path = Path(root, text) if root else Path(text)  # an absolute text leaves the root out
    try:
        path = policy.check_path(path, root, name)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            what = "a folder, not a file" if found and stat.S_ISDIR(found.st_mode) else "no such file"
            raise FileNotFoundError(f"image {path}: {what}")
        return path, found.st_size
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, links in a circle, a NUL
        raise error if isinstance(error, ImageError) else ImageError(f"image {name}: {error}") from error


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise ImageError(f"image {name}: {_reason(error, name)}") from error


def _start(file: io.BytesIO | Path, name: str, policy: ImagePolicy, called: str = "") -> Image.Image:
    try:
        return Image.open(file, formats=policy.formats)
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"image {name}: too large ({error}; Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS)"
        ) from error
    except Exception as error:  # a damaged header raises whatever the format's reader stumbles over
        _refuse_format(file, name, policy.formats, called)
        raise ImageError(f"image {name}: not a readable image ({_reason(error, name)}{called})") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"image {name}: an array must be uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array))


def _refuse_format(file: io.BytesIO | Path, name: str, formats: Sequence[str], called: str) -> None:
    """Raise `ImageRefusedError` if the file is of a known format that is not among `formats`."""
    try:
        with io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file.open("rb") as opened:
            head = opened.read(32)
    except OSError:
        return  # unreadable, as the caller is about to say
    what = next((what for signature, what in SIGNATURES if re.match(signature, head, re.DOTALL)), None)
    if what and what not in formats:
        Image.init()
        how = f"convert it, or add {what} to image_policy: {{formats: [...]}}" if what in Image.OPEN else "convert it"
        reason = f"not a readable image ({what}; {', '.join(formats)} are read{called})"
        raise ImageRefusedError(name, reason, "formats", how)


def _to_rgb(image: Image.Image, name: str, exif_rotation: bool, max_pixels: int, ours: bool = False) -> Image.Image:
    """`image` decoded, in RGB. One that is `ours`, opened here, need not be copied if it is in RGB already."""
    width, height = image.size
    if width * height > max_pixels:
        reason = f"{width}x{height} pixels, more than the {max_pixels} allowed"
        raise ImageRefusedError(name, reason, "max_pixels", "image_policy: {max_pixels: ...} allows more")
    if width * height == 0:
        raise ImageError(f"image {name}: empty, {width}x{height} pixels")
    try:
        if exif_rotation:
            image = ImageOps.exif_transpose(image)
        if ours and image.mode == "RGB":
            image.load()
            return image
        return image.convert("RGB")
    except Exception as error:  # damaged pixels raise whatever the format's reader stumbles over
        raise ImageError(f"image {name}: broken ({_reason(error, name)})") from error


def _reason(error: Exception, name: str) -> str:
    text = str(error) or type(error).__name__
    return "unknown or damaged format" if "cannot identify image file" in text else text.replace(name, "the file")
