"""Finds, loads and calls the MindFormers plugins; a fault in one does not affect the others."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions, entry_points
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

    @property
    def name(self) -> str:
        return self.entry_point.name

    @property
    def package(self) -> str:
        """The package it belongs to: `mindformers-qwenvl`."""
        return getattr(self.entry_point.dist, "name", None) or "unknown package"

    @property
    def version(self) -> str:
        """The version of that package, "" if its metadata does not say."""
        return getattr(self.entry_point.dist, "version", None) or ""

    @property
    def distribution(self) -> str:
        """The package and its version: `mindformers-qwenvl 0.1.0`."""
        return f"{self.package} {self.version}".rstrip()


class PluginManager(pluggy.PluginManager):
    """pluggy's manager; a function named `mindformers_register` is a hook even without a marker."""

    def __init__(self):
        super().__init__(hookspec.PROJECT)
        self.add_hookspecs(hookspec)
        self._plugin_of: dict[str, Plugin] = {}  # pluggy's name, which no two plugins share, -> plugin

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> dict[str, Any] | None:
        """Options of the hook `plugin.name`; None if it is not a hook."""
        if name != HOOK:
            return None  # other attributes are not even looked at
        options = super().parse_hookimpl_opts(plugin, name)
        return {} if options is None and callable(getattr(plugin, name)) else options

    def add(self, plugin: Plugin) -> None:
        """Import a plugin and register it.

        Raises:
            BaseException: what its import raises.
            TypeError: it has no hook, or one that this manager cannot call.
            ValueError: another plugin has the same module.
        """
        module = plugin.entry_point.load()
        if not callable(getattr(module, HOOK, None)):
            raise TypeError(f"{plugin.entry_point.value} has no function {HOOK}()")
        options = self.parse_hookimpl_opts(module, HOOK) or {}
        if options.get("hookwrapper") or options.get("wrapper"):
            raise TypeError(f"{plugin.entry_point.value}: {HOOK}() is a wrapper of hooks, expected a plain function")
        if (known := self.get_name(module)) is not None:
            raise ValueError(f"{plugin.entry_point.value} is already the module of the plugin {known}")
        key = f"{plugin.name} ({plugin.distribution}, {plugin.entry_point.value})"
        self.register(module, key)
        self._plugin_of[key] = plugin

    def implementations(self) -> list[tuple[Plugin, Callable[[], None]]]:
        """(plugin, hook), in the order pluggy calls them."""
        found = reversed(self.hook.mindformers_register.get_hookimpls())
        return [(self._plugin_of[impl.plugin_name], impl.function) for impl in found]


_plugins: list[Plugin] | None = None


def load_plugins() -> list[Plugin]:
    """Load every plugin that MINDFORMERS_PLUGINS lets through, once; later calls return the same list.

    Raises:
        BaseException: what the first broken plugin raised, if MINDFORMERS_PLUGINS_STRICT=1. Otherwise a broken plugin
            is logged as one warning and left out, whatever it raised except KeyboardInterrupt.
    """
    global _plugins
    if _plugins is None:
        found = [Plugin(entry_point) for entry_point in _entry_points()]
        _plugins = sorted(found, key=lambda plugin: (plugin.name, plugin.package))
        try:
            _load(_plugins, _wanted())
        except BaseException:
            _plugins = None
            raise
    return _plugins


def _entry_points() -> Iterable[EntryPoint]:
    """The entry points of the group; packages whose entry-point list is damaged are left out."""
    try:
        return entry_points(group=GROUP)
    except Exception:
        found, seen = [], set()
        for distribution in distributions():
            try:
                name = distribution.name
                if name not in seen:  # of several packages with one name, the first is imported
                    found += distribution.entry_points.select(group=GROUP)
                seen.add(name)
            except Exception as error:
                _warn("A package's list of entry points cannot be read (%s): %s.", distribution, _words(error))
        return found


def _wanted() -> set[str] | None:
    """Names in MINDFORMERS_PLUGINS; None for all."""
    names = os.environ.get(ONLY)
    return None if names is None else {name.strip() for name in names.split(",") if name.strip()}


def _load(plugins: list[Plugin], wanted: set[str] | None) -> None:
    _name_the_same(plugins)
    manager = PluginManager()
    for plugin in plugins:
        if wanted is not None and plugin.name not in wanted:
            plugin.reason = f"not in {ONLY}={os.environ[ONLY]}"
        else:
            _guarded(plugin, lambda plugin=plugin: manager.add(plugin))
    for plugin, register in manager.implementations():
        if _guarded(plugin, register):
            plugin.state = "loaded"
    unknown = sorted((wanted or set()) - {plugin.name for plugin in plugins})
    if unknown:
        names = ", ".join(dict.fromkeys(plugin.name for plugin in plugins)) or "none"
        _warn("%s names %s, but the installed plugins are: %s.", ONLY, ", ".join(unknown), names)


def _name_the_same(plugins: list[Plugin]) -> None:
    """Warn of plugins that share a name: MINDFORMERS_PLUGINS cannot tell them apart. All are loaded."""
    named: dict[str, list[str]] = defaultdict(list)
    for plugin in plugins:
        named[plugin.name].append(f"{plugin.distribution} ({plugin.entry_point.value})")
    for name, places in named.items():
        if len(places) > 1:
            _warn("%d MindFormers plugins are named %s: %s.", len(places), name, ", ".join(places))


def _guarded(plugin: Plugin, step: Callable[[], None]) -> bool:
    """Take one step of loading a plugin; False and one warning if it fails."""
    before = _registered()
    try:
        step()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may call sys.exit()
        if os.environ.get(STRICT) == "1":
            raise
        plugin.state, plugin.reason = "broken", _words(error)
        _warn(
            "MindFormers plugin %s (%s) was %s: %s. Set %s to the plugins to load, separated by commas, or to "
            "an empty string for none; %s=1 raises the error.",
            plugin.name,
            plugin.distribution,
            "not loaded" if _registered() == before else "loaded only in part",
            plugin.reason,
            ONLY,
            STRICT,
        )
        return False
    return True


def _registered() -> set[tuple[str, str, int]]:
    """What is in MindFormers' registry, by kind, name and identity."""
    registry = getattr(sys.modules.get("mindformers.tools.register.register"), "MindFormerRegister", None)
    kinds = getattr(registry, "registry", None) or {}
    return {(str(kind), str(name), id(cls)) for kind, classes in kinds.items() for name, cls in classes.items()}


def _words(error: BaseException) -> str:
    """An error as one line: `TypeError: ...`."""
    try:
        text = str(error)
    except BaseException as second:
        text = f"(its message cannot be shown: {type(second).__name__})"
    return " ".join(f"{type(error).__name__}: {text}".split()).rstrip(": ")


def _warn(message: str, *values: Any) -> None:
    """One line through MindFormers' logger: a Python warning would break the import under `python -W error`."""
    try:
        from mindformers.tools.logger import logger
    except Exception:  # a `mindformers` that is not MindFormers
        sys.stderr.write(f"WARNING - {message % values}\n")
        return
    logger.warning(message, *values)
