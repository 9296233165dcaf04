"""A row of the index of work-arounds, and what becomes of it on the installed MindFormers. Plain Python."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["ACTIVE", "IDLE", "NOT_AVAILABLE", "NOT_NEEDED", "Kind", "NotAvailable", "NotNeeded", "State", "WorkAround"]

ACTIVE, NOT_NEEDED, NOT_AVAILABLE, IDLE = "active", "not needed", "not available", "not installed"
PACKAGE = __name__.partition(".")[0]


class NotAvailable(Exception):
    """MindFormers lacks something that a work-around needs; the message says what."""


class NotNeeded(Exception):
    """MindFormers has no such fault; the message says why."""


class Kind(Enum):
    """How a work-around takes effect."""

    PATCH = "replaces functions of the host"  # `where` is called at registration
    CLASS = "is registered with the host"  # `where` is a class, or a method of one, that YAMLs name
    BASE = "is a base class of the networks"
    INSIDE = "is part of this package's own code"


@dataclass(frozen=True)
class WorkAround:
    """One thing that MindFormers or MindSpore does wrong, or keeps to itself, and what is done about it."""

    name: str  # as messages and `doctor` call it
    kind: Kind
    where: str  # in this package: "host.names:accept_old_auto_register"
    host: Sequence[str]  # files of the host
    reason: str
    seen: str  # versions of MindFormers, "1.7-2.1"
    tests: Sequence[str]  # they show the fault of the host and fail when it has been fixed: then this can go
    # What it replaces, overrides or uses in the host, "module:Class.name"; "a|b": one or the other, by version.
    touches: Sequence[str] = ()

    def load(self) -> Any:
        """The object that `where` names."""
        return _find(f"{PACKAGE}.{self.where}")

    def missing(self) -> str:
        """What it touches but the host does not have; "" if nothing is missing."""
        return ", ".join(
            touched.replace("|", " or ") for touched in self.touches if not any(map(_exists, touched.split("|")))
        )


@dataclass(frozen=True)
class State:
    """What became of a work-around: state is ACTIVE, NOT_NEEDED, NOT_AVAILABLE or IDLE (nothing was registered)."""

    work_around: WorkAround
    state: str
    reason: str = ""  # why it is not active

    def sentence(self, host: str) -> str:
        """`resume in data parallel: not available on MindFormers 1.7.0: no ...`; `host`: name and version."""
        return f"{self.work_around.name}: {self.state} on {host}{f': {self.reason}' if self.reason else ''}"


def install(work_around: WorkAround, *arguments: Any) -> State:
    """Install a work-around. If that fails, the state says why, and nothing else is affected."""
    try:
        if missing := work_around.missing():
            raise NotAvailable(f"there is no {missing}")
        found = work_around.load()
        if work_around.kind is Kind.PATCH:
            found(*arguments)
    except NotNeeded as reason:
        return State(work_around, NOT_NEEDED, str(reason))
    except NotAvailable as reason:
        return State(work_around, NOT_AVAILABLE, str(reason))
    except Exception as error:
        return State(work_around, NOT_AVAILABLE, " ".join(f"{type(error).__name__}: {error}".split()))
    return State(work_around, ACTIVE)


def _find(path: str) -> Any:
    module, _, names = path.partition(":")
    return functools.reduce(getattr, filter(None, names.split(".")), importlib.import_module(module))


def _exists(path: str) -> bool:
    try:
        _find(path)
    except (ImportError, AttributeError):
        return False
    return True
