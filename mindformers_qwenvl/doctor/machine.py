"""The machine and what is installed on it. Nothing of the host is imported."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mindformers_qwenvl import versions
from mindformers_qwenvl.doctor.findings import FAILED, NOT_CHECKED, OK, WARNING, Finding
from mindformers_qwenvl.grounding import fonts
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary

__all__ = ["host", "machine", "optional"]

PYTHONS = ((3, 10), (3, 13))  # from, and below
GB = 1024**3
LITTLE_MEMORY, LITTLE_DISK = 4 * GB, 5 * GB
NOT_FOR_USE = ("host", "test", "dev")  # extras that are checked elsewhere, or are for developers
HOST = ("mindformers", "mindspore")
DRIVER = Path("/usr/local/Ascend/driver/version.info")
CANN = (os.environ.get("ASCEND_HOME_PATH"), os.environ.get("ASCEND_TOOLKIT_HOME"), "/usr/local/Ascend/cann")
CANN = (*CANN, "/usr/local/Ascend/ascend-toolkit/latest")


def machine() -> Iterator[Finding]:
    """Python, driver, memory, disk."""
    section = "Machine"
    version = platform.python_version()
    good = PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]
    wanted = "" if good else "; MindFormers has wheels for 3.10 to 3.12"
    yield Finding(section, "Python", OK if good else FAILED, f"{version}, {sys.executable}{wanted}")
    yield Finding(section, "system", OK, f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")
    driver, cann = _version_in(DRIVER), _cann()
    if driver is None and cann is None:
        yield Finding(section, "CANN", NOT_CHECKED, "neither CANN nor an Ascend driver is here: this is a CPU machine")
    else:
        state = OK if driver and cann else WARNING
        yield Finding(section, "CANN", state, f"CANN {cann or 'not found'}, driver {driver or 'not found'}")
    free, total = _memory()
    if free is None:
        yield Finding(section, "memory", NOT_CHECKED, "it cannot be read from /proc/meminfo")
    else:
        state = OK if free >= LITTLE_MEMORY else WARNING
        yield Finding(section, "memory", state, f"{free / GB:.1f} of {total / GB:.1f} GB free", {"free": free})
    disk = shutil.disk_usage(Path.cwd()).free
    state = OK if disk >= LITTLE_DISK else WARNING
    yield Finding(section, "disk", state, f"{disk / GB:.1f} GB free in {Path.cwd()}", {"free": disk})


def host() -> Iterator[Finding]:
    """MindFormers, MindSpore, and whether they belong together."""
    section = "Host"
    found = {name: versions.installed(name) for name in ("mindformers", "mindspore")}
    for title, name in (("MindFormers", "mindformers"), ("MindSpore", "mindspore")):
        package = found[name]
        detail = f"{package.version or 'of unknown version'}, {package.folder}" if package else "not installed"
        yield Finding(
            section, title, OK if package else FAILED, detail, {"version": package.version if package else ""}
        )
    try:
        versions.require_host()
    except versions.HostError as error:
        yield Finding(section, "pair", FAILED, str(error))
        return
    yield _pair(section, found["mindformers"], found["mindspore"])
    shadow = Path.cwd() / "mindformers"
    if (shadow / "__init__.py").is_file() and shadow.resolve() != found["mindformers"].folder.resolve():
        yield Finding(
            section,
            "shadow",
            WARNING,
            f"{shadow} is another MindFormers: scripts started in this folder import that one",
        )


def _pair(section: str, mindformers: versions.Installed, mindspore: versions.Installed) -> Finding:
    pair = versions.pair_of(mindformers.version)
    if pair is None:
        return Finding(
            section, "pair", WARNING, f"MindFormers {mindformers.version} is not in the table of docs/hosts.md"
        )
    row = f"MindFormers {pair.mindformers} with MindSpore {pair.mindspore[0]}, CANN {pair.cann}"
    if versions.release(mindspore.version) in map(versions.release, pair.mindspore[1:]):
        return Finding(section, "pair", OK, f"{row}; it was run with {mindspore.version}, too")
    if versions.belongs(pair, mindspore.version):
        return Finding(section, "pair", OK, f"{row}: in the table")
    return Finding(section, "pair", WARNING, f"MindSpore {mindspore.version} is installed, but the table has {row}")


def optional() -> Iterator[Finding]:
    """Vocabulary, fonts, and the packages of the extras."""
    section = "Optional"
    try:
        yield Finding(section, "vocabulary", OK, f"{find_vocabulary()}, used where a YAML names no vocab_file")
    except FileNotFoundError as error:
        yield Finding(section, "vocabulary", WARNING, str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("error", fonts.FontWarning)
        try:
            name = Path(str(fonts.font_for("狗", 16).path)).name
            yield Finding(section, "font", OK, f"{name} has Chinese characters")
        except fonts.FontWarning:
            yield Finding(
                section, "font", WARNING, "no font has Chinese characters: pip install 'mindformers-qwenvl[fonts]'"
            )
        except (OSError, ValueError) as error:
            yield Finding(section, "font", FAILED, f"{fonts.FONT_VARIABLE}: {error}")
    extras = _extras()
    if not extras:
        yield Finding(section, "extras", NOT_CHECKED, "this package is not installed, so its extras are not known")
    for extra, packages in extras.items():
        missing = [name for name, version in packages.items() if version is None]
        there = ", ".join(f"{name} {version}" for name, version in packages.items() if version is not None)
        if missing:
            detail = f"without {', '.join(missing)}: pip install {' '.join(missing)}"
            yield Finding(section, f"extra {extra}", WARNING, detail)
        else:
            yield Finding(section, f"extra {extra}", OK, there)


def _extras() -> dict[str, dict[str, str | None]]:
    """Extra -> its packages -> the version that is installed; None: not installed. From this package's metadata."""
    try:
        requirements = metadata.requires("mindformers-qwenvl") or []
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        found = re.match(r"(?P<name>[\w.-]+)(?P<own>\[)?.*;.*extra == ['\"](?P<extra>[\w-]+)['\"]", requirement)
        if found and not found["own"] and found["extra"] not in NOT_FOR_USE and found["name"] not in HOST:
            try:
                version = metadata.version(found["name"])
            except metadata.PackageNotFoundError:
                version = None
            extras.setdefault(found["extra"], {})[found["name"]] = version
    return extras


def _version_in(file: Path) -> str | None:
    try:
        found = re.search(r"^\s*version\s*=\s*\[?([^\]\s:]+)", file.read_text(errors="replace"), re.I | re.M)
    except OSError:
        return None
    return found[1] if found else None


def _cann() -> str | None:
    """The version of the toolkit; its files have moved from release to release."""
    for folder in filter(None, CANN):
        for file in (*Path(folder).glob("*/ascend_toolkit_install.info"), *Path(folder).glob("version.cfg")):
            if (version := _version_in(file)) is not None:
                return version
        if Path(folder).is_dir():
            return f"of unknown version, {folder}"
    return None


def _memory() -> tuple[int | None, int | None]:
    """Free bytes, and all bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, ValueError, IndexError, KeyError):
        return None, None
