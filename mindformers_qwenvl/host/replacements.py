"""Replaces functions of the host: all that a work-around needs, or none. Plain Python."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mindformers_qwenvl.host.work_around import NotAvailable

__all__ = ["Replacements", "stock_of"]

MARK = "_replaces_in_mindformers"


def stock_of(found: Any) -> Any:
    """What the host had in the place of `found`; None if `found` is the host's own."""
    return vars(getattr(found, "__func__", found)).get(MARK) if hasattr(found, "__dict__") else None


class Replacements:
    """Collects replacements; nothing changes before `apply`. What has been replaced already is left as it is."""

    def __init__(self) -> None:
        self._planned: list[tuple[Any, str, Any]] = []

    def add(self, owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
        """Replace `owner.name` by `replacement(stock)`: `owner` a module or class; a class method stays one.

        Raises:
            NotAvailable: there is no such name.
        """
        try:
            stock = inspect.getattr_static(owner, name)
        except AttributeError:
            raise NotAvailable(f"there is no {owner.__name__}.{name}") from None
        if stock_of(stock) is not None:
            return
        is_class_method = isinstance(stock, classmethod)
        function = stock.__func__ if is_class_method else stock
        new = replacement(function)
        setattr(new, MARK, function)
        self._planned.append((owner, name, classmethod(new) if is_class_method else new))

    def add_wherever_imported(self, owner: ModuleType, name: str, replacement: Callable[[Any], Any]) -> None:
        """As `add`, and also in each module of the host that has imported `owner.name` by `from ... import`."""
        stock, before = getattr(owner, name, None), len(self._planned)
        self.add(owner, name, replacement)
        for _, _, new in self._planned[before:]:
            for path, module in list(sys.modules.items()):
                if path.partition(".")[0] == "mindformers" and vars(module).get(name) is stock:
                    self._planned.append((module, name, new))

    def apply(self) -> None:
        """Carry out what was planned."""
        for owner, name, new in self._planned:
            setattr(owner, name, new)
