"""The path of a picture in its own slots, as the original's tokenizer writes it: its bytes, then image pads.

The network overwrites the slots, so what stands in them is free; the original's model reads the path from there and
opens the picture. A path that has more bytes than the image has slots, which can only happen to small networks and with
`max_path_bytes=None`, is remembered in this process instead, and the slots hold its number. Plain Python.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["path_from_slots", "path_to_slots"]

REMEMBERED = 65_536  # paths that did not fit, the latest ones
MARK = 0  # begins the number of a remembered path: no path has this byte

_paths: OrderedDict[int, str] = OrderedDict()
_numbers: dict[str, int] = {}


def path_to_slots(path: str, slots: int) -> list[int]:
    """The ids that an image's slots begin with; none if they have room neither for the path nor for its number."""
    content = path.encode()
    if len(content) <= slots and MARK not in content:
        return list(content)
    number = [MARK, *str(_remember(path)).encode()]
    return number if len(number) <= slots else []


def path_from_slots(ids: Sequence[int], pad: int) -> str | None:
    """The path in an image's slots; None if they hold pads alone.

    Raises:
        ValueError: they hold neither, or the number of a path that this process does not know.
    """
    ids = [int(i) for i in ids]
    written = ids[: ids.index(pad)] if pad in ids else ids
    if not written:
        return None
    try:
        content = bytes(written)
        if content[0] != MARK:
            return content.decode("utf-8")
        number = int(content[1:])
    except ValueError as error:
        raise ValueError(
            f"the slots of an image begin with {written[:8]}…, which are not the bytes of a path: {error}"
        ) from error
    if number not in _paths:
        raise ValueError(
            "the path of a picture had no room in its slots, and it was tokenised in another process or long ago: "
            "tokenise the text again, here"
        )
    return _paths[number]


def _remember(path: str) -> int:
    number = _numbers.get(path)
    if number is None:
        number = next(reversed(_paths), 0) + 1
        _paths[number] = path
        _numbers[path] = number
        if len(_paths) > REMEMBERED:
            _numbers.pop(_paths.popitem(last=False)[1])
    return number
