"""Finds the pictures of a dataset under one folder. Plain Python."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mindformers_qwenvl.datasets.convert.tally import MISSING, UnusableError

__all__ = ["PictureFinder"]

# Where a name without a folder is looked for, in this order. LLaVA-Instruct uses the bare numbers of COCO 2014, which
# is therefore first; the others are for COCO's own annotations or a plain folder of pictures.
PATTERNS = (
    "train2014/COCO_train2014_{}",
    "{}",
    "COCO_train2014_{}",
    "train2014/{}",
    "train2017/{}",
    "val2014/{}",
    "val2014/COCO_val2014_{}",
    "val2017/{}",
)
ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+://|data:)")
HALF = re.compile(r"[\ud800-\udfff]")  # of a surrogate pair: allowed in JSON, but not in UTF-8 or in file names
REFER = re.compile(r"(COCO_\w+_\d{12})_\d+(\.\w+)")  # RefCOCO's file names end with the number of the annotation


class PictureFinder:
    """Finds pictures below the folder `location`.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, location: str | os.PathLike[str], patterns: Sequence[str] = PATTERNS) -> None:
        self.location = Path(location)
        self._patterns = patterns
        if not self.location.is_dir():
            raise FileNotFoundError(f"--image_location {location}: no such folder")
        self._base = os.path.join(self.location, "")  # noqa: PTH118 - joined by hand below: once per picture

    def find(self, name: str) -> str:
        """The path of picture `name`, relative to the folder; addresses (https:, data:) and absolute paths stay as is.

        Raises:
            UnusableError: there is no such file.
        """
        if not name or "\0" in name or HALF.search(name):
            raise UnusableError("malformed record", f"{name!r} is not the name of a picture")
        if ADDRESS.match(name):
            return name
        if "/" in name or os.sep in name:
            names = [name]
        else:
            if match := REFER.fullmatch(name):
                name = "".join(match.groups())
            names = [pattern.format(name) for pattern in self._patterns] if "{" not in name else [name]
        for path in names:
            if os.path.isfile(path if os.path.isabs(path) else self._base + path):  # noqa: PTH113, PTH117
                return path
        tried = names[0] if len(names) == 1 else f"{names[0]}, {names[1]} or {len(names) - 2} other paths"
        raise UnusableError(MISSING, f"no {tried} in {self.location}")

    def same(self, path: str) -> str:
        """One name for all paths to the same picture."""
        return path if ADDRESS.match(path) else os.path.realpath(os.path.join(self._base, path))  # noqa: PTH118

    def size(self, path: str) -> tuple[int, int]:
        """(width, height) in pixels of a picture that was found, from its header.

        Raises:
            UnusableError: it cannot be read, or is not in a file.
        """
        if ADDRESS.match(path):
            raise UnusableError("broken picture", f"{path[:80]}: not in a file, so its size is unknown")
        from PIL import Image  # conversations do not need it

        try:
            with Image.open(self.location / path) as image:
                return image.size
        except Exception as error:  # damaged headers raise all kinds of errors
            raise UnusableError("broken picture", f"{path}: its size cannot be read ({error})") from error
