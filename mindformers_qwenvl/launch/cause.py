"""The first cause of an error, which the host wraps in errors of its own."""

from __future__ import annotations

import re

__all__ = ["explain", "root"]

# The last line of a traceback that MindData puts into the message of a RuntimeError: `ValueError: sample 3: ...`
RAISED = re.compile(
    r"^\s*(?P<kind>(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (?P<text>\S.*)$", re.MULTILINE
)
SHORT = 300  # characters of an outer error to keep: the longer it is, the less it says


def root(error: BaseException) -> BaseException:
    """The first error: the innermost one of a chain of `raise ... from`, or of errors raised while handling another."""
    seen = {id(error)}
    while True:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or id(below) in seen:
            return error
        seen.add(id(below))
        error = below


def explain(error: BaseException) -> list[str]:
    """Lines for the user, the cause first: `ValueError: train.json: sample 3: no such picture`, then the errors that
    it was wrapped in, if they differ."""
    first = root(error)
    cause = _said(first)
    within = _inner(cause)
    lines = [within or cause]
    for outer in (first if within else None, error if error is not first else None):
        if outer is not None and (text := _shortened(_said(outer))) not in lines:
            lines.append(f"raised as {text}")
    return lines


def _inner(message: str) -> str | None:
    """The error in a worker of the data pipeline, which arrives as text with a whole traceback."""
    if "Traceback (most recent call last)" not in message:
        return None
    found = list(RAISED.finditer(message))
    return f"{found[-1]['kind'].rpartition('.')[2]}: {found[-1]['text'].strip()}" if found else None


def _said(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except Exception as fault:  # a broken __str__ must not hide the error
        text = f"(its text cannot be read: {type(fault).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shortened(text: str) -> str:
    line = text.partition("\n")[0].strip()
    return line if len(line) <= SHORT else f"{line[:SHORT]} ..."
