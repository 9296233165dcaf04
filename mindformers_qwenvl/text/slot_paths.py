"""The path of a picture in its own slots, as the original's tokenizer writes it: its bytes, then image pads.

The network overwrites the slots, so they may hold anything; the original's model reads the path from there and opens
the picture. A path may have more bytes than the image has slots, but only in small networks or with
`max_path_bytes=None`. It is then remembered in this process, and the slots hold its number. Plain Python.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["path_from_slots", "path_to_slots"]

REMEMBERED = 65_536  # how many paths that did not fit are remembered, the latest ones
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
    """The path in an image's slots; None if they hold only pads.

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
            "the path of a picture did not fit into its slots, and the text was tokenised in another process or too "
            "long ago: tokenise the text again in this process"
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
