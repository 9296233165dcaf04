"""Finds, loads and calls the MindFormers plugins, each one guarded against the faults of the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from mindformers_qwenvl.discovery import hookspec

__all__ = ["GROUP", "HOOK", "ONLY", "STRICT", "Plugin", "PluginManager", "load_plugins"]

GROUP = "mindformers.plugins"
HOOK = "mindformers_register"
ONLY = "MINDFORMERS_PLUGINS"
STRICT = "MINDFORMERS_PLUGINS_STRICT"


@dataclass
class Plugin:
    """One installed plugin and what became of it."""

    entry_point: EntryPoint = field(repr=False)
    state: str = "off"  # "loaded", "off" or "broken"
    reason: str = ""  # why it is off or broken
    error: Exception | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.entry_point.name

    @property
    def distribution(self) -> str:
        """The package it belongs to, and its version: `mindformers-qwenvl 0.1.0`."""
        return f"{self.entry_point.dist.name} {self.version}"

    @property
    def version(self) -> str:
        return self.entry_point.dist.version

    def fail(self, error: Exception) -> None:
        """Mark it as broken; `reason` becomes one line."""
        self.state, self.error = "broken", error
        self.reason = " ".join(f"{type(error).__name__}: {error}".split())


class PluginManager(pluggy.PluginManager):
    """pluggy's manager; a function named `mindformers_register` is a hook without a marker too."""

    def __init__(self):
        super().__init__(hookspec.PROJECT)
        self.add_hookspecs(hookspec)

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> dict[str, Any] | None:
        """Options of the hook `plugin.name`; None if it is none."""
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name == HOOK and callable(getattr(plugin, name)):
            return {}
        return options

    def add(self, plugin: Plugin) -> None:
        """Import a plugin and register it. Raises what its import raises, TypeError if it has no hook."""
        module = plugin.entry_point.load()
        if not callable(getattr(module, HOOK, None)):
            raise TypeError(f"{plugin.entry_point.value} has no function {HOOK}()")
        self.register(module, plugin.name)

    def implementations(self) -> list[tuple[str, Callable[[], None]]]:
        """(plugin name, hook), in the order pluggy calls them."""
        return [(impl.plugin_name, impl.function) for impl in reversed(self.hook.mindformers_register.get_hookimpls())]


_plugins: list[Plugin] | None = None


def load_plugins() -> list[Plugin]:
    """Load every plugin that MINDFORMERS_PLUGINS lets through, once; later calls return the same list.

    Raises:
        Exception: what the first broken plugin raised, if MINDFORMERS_PLUGINS_STRICT=1. Otherwise a broken plugin is
            logged as one warning and left out.
    """
    global _plugins
    if _plugins is None:
        _plugins = sorted(map(Plugin, entry_points(group=GROUP)), key=lambda plugin: plugin.name)
        try:
            _load(_plugins, _wanted())
        except Exception:
            _plugins = None
            raise
    return _plugins


def _wanted() -> set[str] | None:
    """Names in MINDFORMERS_PLUGINS; None for all."""
    names = os.environ.get(ONLY)
    return None if names is None else {name.strip() for name in names.split(",") if name.strip()}


def _load(plugins: list[Plugin], wanted: set[str] | None) -> None:
    manager = PluginManager()
    chosen: dict[str, Plugin] = {}
    for plugin in plugins:
        if wanted is not None and plugin.name not in wanted:
            plugin.reason = f"not in {ONLY}={os.environ[ONLY]}"
        elif _guarded(plugin, lambda plugin=plugin: manager.add(plugin)):
            chosen[plugin.name] = plugin
    for name, register in manager.implementations():
        if _guarded(chosen[name], register):
            chosen[name].state = "loaded"
    unknown = sorted((wanted or set()) - {plugin.name for plugin in plugins})
    if unknown:
        _warn("%s names %s, but the installed plugins are: %s.", ONLY, ", ".join(unknown), _names(plugins) or "none")


def _guarded(plugin: Plugin, step: Callable[[], None]) -> bool:
    """Take one step of loading a plugin; False and one warning if it fails."""
    try:
        step()
    except Exception as error:
        if os.environ.get(STRICT) == "1":
            raise
        plugin.fail(error)
        _warn(
            "MindFormers plugin %s (%s) was not loaded: %s. Set %s to a comma list of the plugins to load, or to "
            "nothing for none; %s=1 raises the error.",
            plugin.name,
            plugin.distribution,
            plugin.reason,
            ONLY,
            STRICT,
        )
        return False
    return True


def _names(plugins: list[Plugin]) -> str:
    return ", ".join(plugin.name for plugin in plugins)


def _warn(message: str, *values: str) -> None:
    """One line through MindFormers' logger: a Python warning would break the import under `python -W error`."""
    from mindformers.tools.logger import logger

    logger.warning(message, *values)
