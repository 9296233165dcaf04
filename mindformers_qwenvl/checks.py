"""Checks of numbers that people write in YAMLs, commands and calls. Plain Python.

A bool is an int in Python, so `batch_size: True` would pass as 1; NaN passes many range checks. Both are refused here.
`is_whole`, `is_number` and `is_id` return a bool; the others raise an error that names argument, range and value.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

__all__ = [
    "LAYOUT",
    "UnknownNameError",
    "arguments_of",
    "byte_count",
    "is_id",
    "is_number",
    "is_whole",
    "nearest",
    "number",
    "printable",
    "refuse_unknown",
    "switch",
    "whole",
]

LAYOUT = "\n\t"  # control characters that messages of several lines need, see `printable`
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text: object, keep: str = "") -> str:
    """`text` with its control characters escaped (`\\n`, `\\x1b`), except those in `keep`.

    For text from data in a report: a path must not fake a line of the report, colour the terminal or reverse its text.
    """
    return CONTROL.sub(lambda match: match.group() if match.group() in keep else ascii(match.group())[1:-1], str(text))


def nearest(given: object, known: Iterable[object]) -> str:
    """`; did you mean NAME?` with the name in `known` that is most like `given`; empty if none is similar."""
    found = difflib.get_close_matches(str(given), sorted({str(name) for name in known}), 1)
    return f"; did you mean {found[0]}?" if found else ""


def arguments_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the arguments of a function or class, without *args and **kwargs."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))


class UnknownNameError(TypeError, ValueError):
    """An argument or a key that does not exist."""


def refuse_unknown(
    what: str,
    given: Iterable[str],
    known: Collection[str],
    hints: Mapping[str, str] | None = None,
    *,
    shown: Collection[str] | None = None,
) -> None:
    """Raise `UnknownNameError`, with the nearest name, if one of `given` is not `known`.

    Args:
        what: what they were given to, such as the name of a class.
        hints: name -> what to give instead, for names that other programs use.
        shown: the names that the message lists if none is similar; None: all of `known`.
    """
    unknown = sorted(set(map(str, given)) - set(known))
    if not unknown:
        return
    hint = f"; give {hints[unknown[0]]}" if unknown[0] in (hints or {}) else nearest(unknown[0], known)
    hint = hint or f"; it takes {', '.join(sorted(known if shown is None else shown))}"
    raise UnknownNameError(f"{what}: unknown {'keys' if len(unknown) > 1 else 'key'} {', '.join(unknown)}{hint}")


def is_whole(value: Any, least: int | None = None, most: int | None = None) -> bool:
    """Whether `value` is a whole number (int or numpy integer, not bool) of `least` to `most`; None: no limit."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def is_number(
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> bool:
    """Whether `value` is a finite real number (not bool, NaN or infinity) within the limits that are given."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        if not math.isfinite(value):
            return False
    except OverflowError:  # a whole number too large for a float
        return False
    return (
        (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def is_id(value: Any) -> bool:
    """Whether `value` may be the id of a question: a text or a whole number (not bool)."""
    return isinstance(value, str) or is_whole(value)


def whole(
    name: str, value: Any, least: int | None = 1, most: int | None = None, *, optional: bool = False, note: str = ""
) -> Any:
    """`value`, which must be a whole number of `least` to `most`.

    Args:
        name: what errors call it, such as `top_k` or `image_policy: max_bytes`.
        optional: None is accepted too.
        note: added to the message in brackets, such as `0 turns it off`.

    Raises:
        ValueError: it is not; the message names the argument, the range and the value.
    """
    if (value is None and optional) or is_whole(value, least, most):
        return value
    raise ValueError(_message(name, "a whole number", _range(least, most), optional, note, value))


def number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    optional: bool = False,
    note: str = "",
) -> Any:
    """`value`, which must be a finite number within the limits that are given; other arguments as in `whole`.

    Args:
        least, most: limits that are themselves allowed.
        above, below: limits that are not.

    Raises:
        ValueError: it is not; the message names the argument, the range and the value.
    """
    if (value is None and optional) or is_number(value, least, most, above=above, below=below):
        return value
    raise ValueError(_message(name, "a number", _range(least, most, above, below), optional, note, value))


def switch(name: str, value: Any) -> bool:
    """`value`, which must be True or False.

    Raises:
        ValueError: it is not; the message names the argument and the value.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be True or False, got {value!r}")


def byte_count(name: str, text: Any, *, unit: int = 1000) -> int:
    """`5GB`, `57.5 gb`, `500MB`, `2GiB` or a plain number of bytes -> bytes.

    Args:
        unit: what K, M, G and T are powers of, 1000 or 1024. With an i (GiB) it is always 1024.

    Raises:
        ValueError: it is not a size, or is zero.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE | re.ASCII)
    if match:
        size = int(float(match[1]) * (1024 if match[3] else unit) ** " KMGT".index(match[2].upper() or " "))
        if size > 0:
            return size
    raise ValueError(f"{name} must be a size such as 500MB or 64GB, got {text!r}")


def _message(name: str, kind: str, limits: str, optional: bool, note: str, value: Any) -> str:
    left_out = ", or left out" if optional else ""
    return f"{name} must be {kind}{limits}{left_out}{f' ({note})' if note else ''}, got {value!r}"


def _range(
    least: float | None, most: float | None = None, above: float | None = None, below: float | None = None
) -> str:
    """In words, with a leading space: ` from 0 to 1`, ` of 1 or more`, ` above 0 and below 100`."""
    if least is not None and most is not None:
        return f" from {least} to {most}"
    low = f" of {least} or more" if least is not None else f" above {above}" if above is not None else ""
    high = f" of {most} or less" if most is not None else f" below {below}" if below is not None else ""
    if low and high:
        return f"{low} and{' at most ' + str(most) if most is not None else high}"
    return low or high
