"""Whether the text that names a picture is a web address, a `data:` address, or neither. Standard library only."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError

__all__ = ["decode_data_uri", "is_data_uri", "is_web_address", "shorten", "too_large"]


def is_web_address(source: Any) -> bool:
    """Whether `source` is an http(s) address."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def is_data_uri(source: Any) -> bool:
    """Whether `source` is a `data:` address."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def shorten(address: str, limit: int = 200) -> str:
    """An address as messages show it: cut after `limit` characters."""
    return address if len(address) <= limit else f"{address[:limit]}... ({len(address)} characters)"


def decode_data_uri(uri: str, policy: ImagePolicy | None = None) -> bytes:
    """The bytes of `data:image/png;base64,...`. The type in the address is ignored: the bytes show the format.

    Raises:
        ImageRefusedError: it has more bytes than the policy's `max_bytes`.
        ImageError: it is not a `data:` address in base64, or it is damaged or empty.
    """
    policy = policy or ImagePolicy()
    head, comma, body = uri.partition(",")
    name = shorten(uri, 40)
    if not is_data_uri(uri) or not comma:
        raise ImageError(f"image {name}: expected data:image/...;base64,...")
    if head.lower().split(";")[-1].strip() != "base64":
        raise ImageError(f"image {name}: a data: address must be in base64 (data:image/...;base64,...)")
    if len(body) > 4 * policy.max_bytes + 4:  # every character may be escaped (%41), and there may be line ends
        raise too_large(name, None, policy.max_bytes)
    try:
        data = base64.b64decode(re.sub(rb"\s+", b"", unquote_to_bytes(body)), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"image {name}: damaged base64: {error}") from error
    if len(data) > policy.max_bytes:
        raise too_large(name, len(data), policy.max_bytes)
    if not data:
        raise ImageError(f"image {name}: the data: address is empty")
    return data


def too_large(name: str, size: int | None, limit: int) -> ImageRefusedError:
    """The error for more than `limit` bytes; `size` is their number, None if it is not known."""
    reason = f"{'more' if size is None else f'{size} bytes, more'} than the {limit} bytes allowed"
    return ImageRefusedError(name, reason, "max_bytes", "image_policy: {max_bytes: ...} allows more")
