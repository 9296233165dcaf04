"""Which MindFormers and MindSpore this package runs on, and which are installed. Neither is imported to find out.

A *host* is a pair of the two. `pip install mindformers-qwenvl` brings neither, because the pair belongs to the machine:
its driver needs a certain MindSpore, which needs a certain MindFormers. The extra `[host]` is for machines without
a host.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = [
    "INSTALL",
    "OLDEST",
    "PAIRS",
    "HostError",
    "Installed",
    "Pair",
    "belongs",
    "hidden",
    "installed",
    "pair_of",
    "release",
    "require_host",
]


@dataclass(frozen=True)
class Pair:
    """A row of the table in docs/hosts.md."""

    mindformers: str  # "1.9": every patch release of it
    mindspore: tuple[str, ...]  # the one it requires, then others it has been seen to run on
    cann: str  # for the MindSpore it requires; Ascend only


# 2.0.0 needs hyper-parallel, which is not on the package index. It is treated as 2.1, whose files it shares.
PAIRS = (
    Pair("1.7", ("2.7",), "8.3"),
    Pair("1.8", ("2.7",), "8.5"),
    Pair("1.9", ("2.9",), "9.0"),
    Pair("2.0", ("2.10",), "9.1"),
    Pair("2.1", ("2.11", "2.10"), "9.2"),
)
OLDEST = (1, 7)  # of MindFormers: 1.6 has other base classes
INSTALL = "pip install 'mindformers-qwenvl[host]'"
NEEDED = "MindFormers 1.7 or later and the MindSpore that belongs to it"


class HostError(ImportError):
    """There is no MindFormers with MindSpore that this package can run on; the message says what to install."""


@dataclass(frozen=True)
class Installed:
    """One of the two packages, as `import` would find it."""

    name: str
    version: str  # "" if unknown
    folder: Path


def installed(name: str) -> Installed | None:
    """The package `name` that `import name` would find; None if there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: sys.modules has a module of that name without a spec
        return None
    if spec is None or not spec.origin:  # a folder of that name without an __init__.py is not the package
        return None
    folder = Path(spec.origin).parent
    return Installed(name, _version(name, folder), folder)


def hidden(name: str) -> Installed | None:
    """The installed package `name`, if `import name` would find another folder, such as a checkout; else None."""
    found = installed(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(name)))
    if found is None or not folder.is_dir() or os.path.realpath(folder) == os.path.realpath(found.folder):
        return None
    return Installed(name, distribution.version, folder)


def _version(name: str, folder: Path) -> str:
    """The version that the files in `folder` give; the installed metadata may describe another folder."""
    for file in (folder / "version.py", folder / "__init__.py"):
        try:
            found = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return found[1]
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def release(version: str) -> tuple[int, int] | None:
    """Major and minor number; None for a version in another form, as Ascend builds may have."""
    found = re.match(r"[vr]?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def pair_of(mindformers: str) -> Pair | None:
    """The row of the table for this version of MindFormers."""
    number = release(mindformers)
    return next((pair for pair in PAIRS if number == release(pair.mindformers)), None)


def belongs(pair: Pair, mindspore: str) -> bool:
    """Whether this version of MindSpore belongs to `pair`; True if its numbers cannot be read."""
    number = release(mindspore)
    return number is None or number in map(release, pair.mindspore)


def require_host() -> None:
    """Return if a host is installed that is worth trying; its capabilities are checked later, one by one.

    Raises:
        HostError: one of the two packages is missing, or MindFormers is older than 1.7. The message says what was
            found, what is needed, and which command installs it.
    """
    mindformers, mindspore = installed("mindformers"), installed("mindspore")
    if mindformers is None or mindspore is None:
        found = [f"{name} {package.version}" for name, package in _named(mindformers, mindspore) if package]
        have = f"only {found[0].rstrip()} is installed" if found else "neither is installed"
        raise HostError(f"{NEEDED} are needed, but {have}: {_advice(mindformers, mindspore)}")
    number = release(mindformers.version)
    if number is not None and number < OLDEST:
        raise HostError(
            f"{NEEDED} are needed, but MindFormers {mindformers.version} with MindSpore {mindspore.version} is "
            f"installed: {INSTALL} (or the pair for this machine's driver, see docs/hosts.md)"
        )


def _named(mindformers: Installed | None, mindspore: Installed | None) -> list[tuple[str, Installed | None]]:
    return [("MindFormers", mindformers), ("MindSpore", mindspore)]


def _advice(mindformers: Installed | None, mindspore: Installed | None) -> str:
    """The command that installs what is missing and keeps the half that is there."""
    if mindspore is None and mindformers is not None:
        pair = pair_of(mindformers.version)
        if pair is not None:
            return f"pip install 'mindspore=={pair.mindspore[0]}.*'"
    if mindformers is None and mindspore is not None:
        fitting = [pair for pair in PAIRS if release(pair.mindspore[0]) == release(mindspore.version)]
        if fitting:
            return f"pip install 'mindformers=={fitting[-1].mindformers}.*' 'mindspore=={mindspore.version}'"
    return f"{INSTALL} (or the pair for this machine's driver, see docs/hosts.md)"
