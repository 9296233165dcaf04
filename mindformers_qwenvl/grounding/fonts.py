"""A font that has the characters of a label. The original downloads SimSun; here the machine's fonts are searched."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from PIL import ImageFont

__all__ = ["FONT_VARIABLE", "FontWarning", "font_for", "visible"]

FONT_VARIABLE = "MINDFORMERS_QWENVL_FONT"
PACKAGES = ("pylopdf-fonts-zh-cn", "manimgx-fonts-cjk")  # nothing but Noto Sans SC and Noto Sans CJK
SUFFIXES = (".ttf", ".ttc", ".otf", ".otc")
# Where fonts are on Linux, macOS and Windows, if there is no fontconfig to ask.
FOLDERS = (
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("C:/Windows/Fonts", "~/AppData/Local/Microsoft/Windows/Fonts"),
)
UNASSIGNED = "\u0378"  # in no font, so its shape is that of a missing character


class FontWarning(UserWarning):
    """No font was found for some characters of a label."""


def font_for(text: str, size: int, font: str | os.PathLike[str] | None = None) -> ImageFont.FreeTypeFont:
    """A font of `size` pixels that has the characters of `text`.

    `font`, or else the file that MINDFORMERS_QWENVL_FONT names, is used even if it lacks characters. Without either,
    Pillow's own font is used if it has every character, else the first such font among the installed font packages and
    the machine's fonts, else Pillow's own. If characters are missing, a `FontWarning` says so, once per process.

    Raises:
        FileNotFoundError, ValueError: `font`, or the file of the variable, does not exist or is not a font.
    """
    needed = "".join(sorted({letter for letter in text if not letter.isspace() and not unicodedata.combining(letter)}))
    chosen = font or os.environ.get(FONT_VARIABLE)
    if chosen:
        found = _open(Path(chosen).expanduser(), size, "font" if font else FONT_VARIABLE)
        if missing := _missing(found, needed):
            _warn(missing, f"the font {os.fspath(chosen)} does not have all of them")
        return found
    own = ImageFont.load_default(size)
    missing = _missing(own, needed)
    if not missing:
        return own
    place = _search(needed)
    if place is None:
        _warn(missing, "no font of this machine has all of them")
        return own
    return ImageFont.truetype(place[0], size, index=place[1])


_warned = False


def _warn(missing: str, why: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"labels of boxes have characters that cannot be drawn ({missing[:20]}): {why}. Give a font file that has "
            f"them: the argument font=, or the environment variable {FONT_VARIABLE}. For Chinese, 'pip install "
            f"{PACKAGES[0]}' or 'apt-get install fonts-noto-cjk' installs one that is found automatically",
            FontWarning,
            stacklevel=2,
        )


def _open(path: Path, size: int, said_by: str) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        raise FileNotFoundError(f"{said_by}: no font file {path}")
    try:
        return ImageFont.truetype(str(path), size)
    except OSError as error:
        raise ValueError(f"{said_by}: {path} is not a font that can be read ({error})") from error


def visible(text: str) -> str:
    """`text` without control, format and other characters that have no shape of their own."""
    return "".join(
        letter for letter in text if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Cn")
    )


def _missing(font: ImageFont.FreeTypeFont, letters: str) -> str:
    """The `letters` that `font` draws as it draws a character that does not exist."""
    try:
        absent = _shape(font, UNASSIGNED)
        return "".join(letter for letter in letters if _shape(font, letter) == absent)
    except OSError:  # a bitmap font that does not have this size
        return letters


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=64)
def _search(letters: str) -> tuple[str, int] | None:
    """(file, number of the face in it) of the first font that has all `letters`, or None."""
    for path, index in _candidates(letters):
        with contextlib.suppress(OSError):
            if not _missing(ImageFont.truetype(path, 20, index=index), letters):
                return path, index
    return None


def _candidates(letters: str) -> Iterator[tuple[str, int]]:
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield from ((str(file.locate()), 0) for file in metadata.files(package) or () if file.suffix in SUFFIXES)
    if fontconfig := shutil.which("fc-list"):
        pattern = f":charset={' '.join(f'{ord(letter):x}' for letter in letters)}"
        command = [fontconfig, "--format=%{file}\t%{index}\t%{style}\n", pattern]
        lines: list[str] = []
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
        faces = [line.split("\t") for line in lines if line.count("\t") == 2]
        for path, index, _ in sorted(faces, key=lambda face: ("Regular" not in face[2], face)):
            yield path, int(index) & 0xFFFF if index.isdigit() else 0  # the higher bits number an instance of the face
    for folder in FOLDERS:
        with contextlib.suppress(RuntimeError):  # there is no home folder
            files = [path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in SUFFIXES]
            yield from ((str(path), 0) for path in sorted(files, key=lambda path: ("Regular" not in path.name, path)))
