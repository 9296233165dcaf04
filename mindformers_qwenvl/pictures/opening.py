"""Opening pictures: from a path, an address, bytes, a Pillow image or an array, under an `ImagePolicy`. Pillow, numpy.

As in the original Qwen-VL (`visual.py`, `VisionTransformer.encode`): the first frame, `convert("RGB")` (alpha is
dropped, not blended), and no EXIF rotation unless `exif_rotation` asks for it.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageOps

from mindformers_qwenvl.checks import printable
from mindformers_qwenvl.files import read_bytes
from mindformers_qwenvl.pictures.fetch import fetch
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from mindformers_qwenvl.pictures.sources import decode_data_uri, is_data_uri, is_web_address, shorten

__all__ = ["ImageSource", "StartedImage", "image_name", "open_image", "source_name", "start_image"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | StartedImage"

LONGEST_NAME = 255  # characters of a file name on most disks
# How the content of a picture begins in base64.
BASE64 = {"/9j/": "jpeg", "iVBORw0KGgo": "png", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}
READ_WHOLE = 2**24  # bytes; larger files are read while they are decoded

GIT_LFS = "a git-lfs pointer"
# How files of other formats begin, so that a message can say what the file is.
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
    (rb"version https://git-lfs\.", GIT_LFS),
)


@dataclass(frozen=True)
class StartedImage:
    """An image file that the policy allows: header read, pixels not yet decoded. `name` is for messages."""

    name: str
    image: Image.Image


def start_image(
    source: ImageSource, *, root: str | os.PathLike[str] | None = None, policy: ImagePolicy | None = None
) -> ImageSource:
    """The first half of `open_image` for the path of a file; any other source is returned as it is.

    Raises:
        FileNotFoundError, ImageRefusedError, ImageError: as `open_image`, for faults that show before decoding.
    """
    if isinstance(source, NOT_PATHS) or is_web_address(source) or is_data_uri(source):
        return source
    policy = policy or ImagePolicy()
    path, size = _file(source, root, policy)
    name = str(path)
    if size > READ_WHOLE:
        return StartedImage(name, _start(path, name, policy))
    # Pillow would read and decode in small pieces, and a thread would release the interpreter lock for each.
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
    """The picture `source`, decoded, as an RGB Pillow image in its original size.

    Args:
        source: a path, a `file://`, `http://`, `https://` or `data:...;base64,` address, the bytes of an image file, a
            Pillow image, or an array uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].
        root: the folder that relative paths start from, and that no path may leave unless the policy allows it.
        exif_rotation: rotate the picture by its EXIF orientation.
        policy: where pictures may come from and how large they may be; None is the default `ImagePolicy`.

    Raises:
        FileNotFoundError: there is no file at the path.
        ImageRefusedError: the policy forbids it; the message says which rule does and how to allow it.
        ImageError: it is not a picture, is broken, cannot be fetched, or is a kind of source that is not supported.
    """
    policy = policy or ImagePolicy()
    source = start_image(source, root=root, policy=policy)
    name = source_name(source)
    if isinstance(source, np.ndarray):
        source = _from_array(source, name)
    if isinstance(source, Image.Image):
        return _to_rgb(source, name, exif_rotation, policy)
    if isinstance(source, StartedImage):
        image = source.image
    else:
        called = ""
        if is_web_address(source):
            download = fetch(source, policy)
            called = f"; the server says {download.content_type}" if download.content_type else ""
            source = download.data
        elif is_data_uri(source):
            source = decode_data_uri(source, policy)
        image = _start(io.BytesIO(source), name, policy, called)
    with image:
        return _to_rgb(image, name, exif_rotation, policy, opened_here=True)


def image_name(image: Any, images: dict[str, Any]) -> Any:
    """What stands for an image in the text of a query: its path or web address, or a made-up name for anything else.

    Sources other than strings are stored in `images` under that text. So are `data:` addresses, which get a name too:
    nobody wants to read megabytes in an answer.
    """
    if isinstance(image, str) and not is_data_uri(image):
        return image
    name = os.fspath(image) if isinstance(image, os.PathLike) else f"memory:{len(images) + 1}"
    images[name] = image
    return name


def source_name(source: Any) -> str:
    """What messages call `source`: its path or address, or a description such as `<20 bytes>`."""
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


def _file(source: Any, root: str | os.PathLike[str] | None, policy: ImagePolicy) -> tuple[Path, int]:
    """(path, size in bytes) of the file that `source` names, if it exists and the policy allows it."""
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
            raise ImageRefusedError(name, f"{scheme[1]}:// cannot be read; use a file://, http(s):// or data: address")
        parts = urlsplit(text)
        if parts.netloc.lower() not in ("", "localhost"):
            raise ImageError(f"image {name}: the file:// address is on another machine ({parts.netloc})")
        text = unquote(parts.path)
    _refuse_base64(text)
    path = Path(root, text) if root else Path(text)  # an absolute path ignores the root
    try:
        path = policy.check_path(path, root, name)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            what = "a folder, not a file" if found and stat.S_ISDIR(found.st_mode) else "no such file"
            raise FileNotFoundError(printable(f"image {path}: {what}"))
        return path, found.st_size
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, links in a circle, a NUL
        raise error if isinstance(error, ImageError) else ImageError(f"image {name}: {error}") from error


def _refuse_base64(text: str) -> None:
    """Raise `ImageError` if `text` is not a path but the content of a picture in base64, as some APIs take it."""
    kind = next((kind for beginning, kind in BASE64.items() if text.startswith(beginning)), None)
    if len(text) > LONGEST_NAME and (kind or re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", text[:4096])):
        kind = kind or "png"
        raise ImageError(
            f"image {shorten(text, 40)}: this is the content of a picture in base64, not a path: put "
            f"`data:image/{kind};base64,` before it"
        )


def _read(path: Path, name: str) -> bytes:
    try:
        return read_bytes(path, READ_WHOLE)
    except (OSError, ValueError) as error:
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
    if what == GIT_LFS:
        raise ImageError(f"image {name}: it is {what}, not the picture: run `git lfs pull` where it was cloned")
    if what and what not in formats:
        Image.init()
        how = f"convert it, or add {what} to image_policy: {{formats: [...]}}" if what in Image.OPEN else "convert it"
        reason = f"not a readable image: it is {what}, but only {', '.join(formats)} are read{called}"
        raise ImageRefusedError(name, reason, "formats", how)


def _to_rgb(
    image: Image.Image, name: str, exif_rotation: bool, policy: ImagePolicy, opened_here: bool = False
) -> Image.Image:
    """`image`, decoded, in RGB. If it was `opened_here` and is RGB already, it is not copied."""
    width, height = image.size
    max_pixels = policy.max_pixels
    if width * height > max_pixels:
        reason = f"{width}x{height} pixels, more than the {max_pixels} allowed"
        raise ImageRefusedError(name, reason, "max_pixels", "image_policy: {max_pixels: ...} allows more")
    if max(width, height) > policy.max_side:
        reason = f"{width}x{height} pixels, a side longer than the {policy.max_side} allowed"
        raise ImageRefusedError(name, reason, "max_side", "image_policy: {max_side: ...} allows more")
    if width * height == 0:
        raise ImageError(f"image {name} is empty: {width}x{height} pixels")
    try:
        if exif_rotation:
            image = ImageOps.exif_transpose(image)
        if opened_here and image.mode == "RGB":
            image.load()
            return image
        return image.convert("RGB")
    except Exception as error:  # damaged pixels raise whatever the format's reader stumbles over
        raise ImageError(f"image {name}: broken ({_reason(error, name)})") from error


def _reason(error: Exception, name: str) -> str:
    text = str(error) or type(error).__name__
    return "unknown or damaged format" if "cannot identify image file" in text else text.replace(name, "the file")
