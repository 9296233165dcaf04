"""`ImagePolicy`: where pictures may come from and how large they may be. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import nearest, number, printable, switch, whole
from mindformers_qwenvl.pictures.addresses import NEVER, kind, network, real_address

__all__ = ["ImageError", "ImagePolicy", "ImageRefusedError"]


class ImageError(ValueError):
    """A picture that cannot be used. The message names it and says why, in one line whatever its name is."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ImageRefusedError(ImageError):
    """A picture that a rule of the `ImagePolicy` forbids.

    The message says which rule it is and how to allow the picture. `rule` is the field of the policy, or "" if no
    setting would allow it.
    """

    def __init__(self, name: str, reason: str, rule: str = "", how: str = "") -> None:
        super().__init__(f"image {name}: {reason}{f' (rule {rule}; {how})' if rule else ''}")
        self.rule = rule


@dataclass(frozen=True)
class ImagePolicy:
    """Rules for every picture that is opened; in a YAML `image_policy: {allow_hosts: [...], ...}`.

    allow_hosts: hosts to fetch from, `images.example.com` or `*.example.com` (any name below it). None allows any host,
        an empty list none.
    allow_private: non-public addresses (loopback, private, ...) that may be fetched from as well: True for all of them,
        or a list of networks (`10.1.0.0/16`) and addresses. A host must pass both this rule and `allow_hosts`.
    allow_folders: folders that files may be in; None allows any. With a `dataset_dir`, they are allowed in addition.
    allow_outside: with a `dataset_dir`, let paths leave it (`..`, absolute paths, links that lead out).
    formats: decoders to use, by Pillow's names. Pillow has many more, some of them old and rarely tested.
    max_bytes: the largest size of a fetched picture or of a `data:` address.
    max_pixels: the largest width x height of any picture; larger ones are refused before they are decoded.
    max_side: the largest width or height. Pictures are resized one axis at a time: a narrow one with millions of rows
        would take gigabytes in between.
    max_redirects: how many redirects are followed; each one is judged like the first address.
    connect_timeout, read_timeout, total_timeout: seconds for a connection (name, TCP, TLS), between two pieces of a
        response, and for the whole picture with its redirects.

    Raises:
        ValueError: a value is of the wrong type or out of range; the message names the field and what it takes.
    """

    allow_hosts: tuple[str, ...] | None = None
    allow_private: bool | tuple[str, ...] = False
    allow_folders: tuple[str, ...] | None = None
    allow_outside: bool = False
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
    max_bytes: int = 32 * 2**20
    max_pixels: int = 89_478_485  # 270 MB when decoded; above it Pillow itself warns of a decompression bomb
    max_side: int = 100_000  # JPEG ends at 65,535, WebP at 16,383
    max_redirects: int = 3
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    total_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("allow_hosts", "allow_private", "allow_folders", "formats"):
            self._take_list(name)
        object.__setattr__(self, "formats", tuple(name.upper() for name in self.formats))
        for host in self.allow_hosts or ():
            if not host or set(host) & set("/@ \\") or (":" in host and not _is_address(host)):
                raise ValueError(f"image_policy: allow_hosts takes names like images.example.com, got {host!r}")
        for text in self.allow_private if isinstance(self.allow_private, tuple) else ():
            try:
                network(text)
            except ValueError as error:
                raise ValueError(f"image_policy: allow_private takes networks like 10.1.0.0/16: {error}") from None
        switch("image_policy: allow_outside", self.allow_outside)
        for name in ("max_bytes", "max_pixels", "max_side"):
            whole(f"image_policy: {name}", getattr(self, name))
        whole("image_policy: max_redirects", self.max_redirects, 0)
        for name in ("connect_timeout", "read_timeout", "total_timeout"):
            number(f"image_policy: {name}", getattr(self, name), above=0, note="seconds")

    def _take_list(self, name: str) -> None:
        value = getattr(self, name)
        if (value is None and name in ("allow_hosts", "allow_folders")) or (
            isinstance(value, bool) and name == "allow_private"
        ):
            return
        if not isinstance(value, list | tuple) or not all(isinstance(item, str | os.PathLike) for item in value):
            raise ValueError(f"image_policy: {name} takes a list of strings, got {value!r}")
        object.__setattr__(self, name, tuple(os.fspath(item) for item in value))

    @classmethod
    def of(cls, value: ImagePolicy | Mapping[str, Any] | None) -> ImagePolicy:
        """The policy of a YAML section; None is the default policy.

        Raises:
            ValueError: `value` is not a section, or has a field that does not exist.
        """
        if isinstance(value, ImagePolicy):
            return value
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"image_policy: expected a section like {{allow_hosts: [...]}}, got {value!r}")
        known = [field.name for field in fields(cls)]
        unknown = [name for name in value or () if name not in known]
        if unknown:
            raise ValueError(
                f"image_policy: unknown field {', '.join(map(str, unknown))}{nearest(unknown[0], known)}; "
                f"the fields are {', '.join(known)}"
            )
        return cls(**dict(value or {}))

    def to_dict(self) -> dict[str, Any]:
        """The values that differ from the default, as plain values for a YAML."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(_DEFAULT, name)
        }

    def tightened(self, by: ImagePolicy) -> ImagePolicy:
        """This policy, made stricter where `by` is stricter, and never laxer. What `by` allows in addition is ignored.

        `allow_folders` of `by` counts only if it is empty: with a `dataset_dir`, any folder in it would be one more.
        """
        hosts, folders = self.allow_hosts, self.allow_folders
        if by.allow_hosts is not None:
            hosts = by.allow_hosts if hosts is None else tuple(h for h in by.allow_hosts if _covers(hosts, h))
        if by.allow_folders == ():
            folders = ()
        formats = tuple(name for name in self.formats if name in by.formats)
        least = ("max_bytes", "max_pixels", "max_side", "max_redirects")
        times = ("connect_timeout", "read_timeout", "total_timeout")
        return ImagePolicy(
            allow_hosts=hosts,
            allow_private=_private_in_both(self.allow_private, by.allow_private),
            allow_folders=folders,
            allow_outside=self.allow_outside and by.allow_outside,
            formats=formats or self.formats,
            **{name: min(getattr(self, name), getattr(by, name)) for name in (*least, *times)},
        )

    # ---- rules

    def check_host(self, host: str, name: str) -> None:
        """Raise `ImageRefusedError` unless `host`, in lower case, is one of `allow_hosts`."""
        if self.allow_hosts is None:
            return
        for allowed in self.allow_hosts:
            allowed = allowed.lower().rstrip(".")
            if host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:])):
                return
        raise ImageRefusedError(
            name,
            f"the host {host} is not allowed; allowed are: {', '.join(self.allow_hosts) or 'none'}",
            "allow_hosts",
            f"add {host} to image_policy: {{allow_hosts: [...]}}",
        )

    def check_address(self, address: str, host: str, name: str) -> None:
        """Raise `ImageRefusedError` unless `address`, an address of `host`, is public or allowed."""
        what = kind(address)
        if what is None:
            return
        real = real_address(address)
        place = f"the host {host} has the address {address}"
        if what in NEVER:
            raise ImageRefusedError(name, f"{place}, which is {what}; pictures are never fetched from there")
        if self.allow_private is True:
            return
        if any(one in network(text) for text in self.allow_private or () for one in (real, ip_address(address))):
            return
        raise ImageRefusedError(
            name,
            f"{place}, which is {what}, not public",
            "allow_private",
            f"image_policy: {{allow_private: ['{real}']}} allows it",
        )

    def check_path(self, path: Path, root: str | os.PathLike[str] | None, name: str) -> Path:
        """The path to read: `path`, with its links followed if folders are limited. `root`: the `dataset_dir`, if any.

        Raises:
            ImageRefusedError: it is outside the allowed folders.
            OSError, RuntimeError: its links form a circle.
        """
        confined = bool(root) and not self.allow_outside
        if not confined and self.allow_folders is None:
            return path
        places = [*([root] if root else []), *(self.allow_folders or ())]
        real = os.path.realpath(path)
        if any(_is_inside(real, os.fspath(place)) for place in places):
            return Path(real)
        resolved = path.resolve()
        leads = "" if resolved == path else f" (it leads to {resolved})"
        if confined:
            reason = f"outside dataset_dir {root}{leads}"
            how = f"image_policy: {{allow_folders: ['{resolved.parent}']}} or {{allow_outside: true}} allows it"
            raise ImageRefusedError(name, reason, "allow_outside", how)
        reason = f"not in an allowed folder; allowed are: {', '.join(map(str, places)) or 'none'}{leads}"
        how = f"add '{resolved.parent}' to image_policy: {{allow_folders: [...]}}"
        raise ImageRefusedError(name, reason, "allow_folders", how)


def _is_inside(real: str, place: str) -> bool:
    """Whether `real`, a path without links, is the folder `place` or in it. As text: it runs for every picture."""
    return f"{real}{os.sep}".startswith(_real_folder(place, None if place.startswith(os.sep) else Path.cwd()))


@lru_cache(maxsize=64)
def _real_folder(place: str, start: Path | None) -> str:
    """`place` with links followed and a separator at the end. `start`, the current folder, is part of the cache key."""
    return f"{Path(place).expanduser().resolve()}{os.sep}".replace(os.sep * 2, os.sep)


def _covers(allowed: tuple[str, ...], host: str) -> bool:
    """Whether `allowed` covers every host that `host`, a name or a pattern, stands for."""
    name = host.lower().rstrip(".")
    patterns = [one.lower().rstrip(".") for one in allowed]
    return name in patterns or any(one.startswith("*.") and name.endswith(one[1:]) for one in patterns)


def _private_in_both(one: bool | tuple[str, ...], other: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
    if isinstance(one, bool) or isinstance(other, bool):
        return other if one is True else one if other is True else False
    pairs = [(first, second) for first in one for second in other if network(first).version == network(second).version]
    inner = [first for first, second in pairs if network(first).subnet_of(network(second))]
    inner += [second for first, second in pairs if network(second).subnet_of(network(first))]
    return tuple(dict.fromkeys(inner))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


_DEFAULT = ImagePolicy()
