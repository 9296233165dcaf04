"""The plugin manager in this process, with entry points of modules made up here."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pluggy
import pytest

from mindformers_qwenvl.discovery import manager


class Package:
    """What the manager asks of a distribution."""

    name, version = "some-package", "3.1"


@pytest.fixture
def load(monkeypatch):
    """`load(name=hook or exception, ...)` -> (the plugins by name, names called in order, lines logged)."""
    monkeypatch.delenv(manager.ONLY, raising=False)
    monkeypatch.delenv(manager.STRICT, raising=False)
    called: list[str] = []
    logged: list[str] = []
    monkeypatch.setattr(manager, "_warn", lambda message, *values: logged.append(message % values))

    def load(**sources):
        points = []
        for name, source in sources.items():
            module = ModuleType(f"made_up_{name}")
            if source is not None:
                setattr(module, manager.HOOK, source if callable(source) else lambda name=name: called.append(name))
            monkeypatch.setitem(sys.modules, module.__name__, module)
            point = EntryPoint(name, module.__name__, manager.GROUP)
            points.append(point._for(Package))
        monkeypatch.setattr(manager, "entry_points", lambda group: points if group == manager.GROUP else [])
        monkeypatch.setattr(manager, "_plugins", None)
        return {plugin.name: plugin for plugin in manager.load_plugins()}, called, logged

    return load


def fails():
    raise RuntimeError("no\n  luck")


def raises(error):
    def hook():
        raise error

    return hook


class Silent(Exception):
    def __str__(self):
        raise OSError("not even that")


def test_all_are_called_once(load):
    plugins, called, logged = load(b="hook", a="hook")
    assert manager.load_plugins() == list(plugins.values())
    assert sorted(called) == ["a", "b"]
    assert [plugin.state for plugin in plugins.values()] == ["loaded", "loaded"]
    assert plugins["a"].distribution == "some-package 3.1"
    assert logged == []


def test_one_that_fails_does_not_stop_the_others(load):
    plugins, called, logged = load(a="hook", b=fails, c="hook")
    assert sorted(called) == ["a", "c"]
    assert {name: plugin.state for name, plugin in plugins.items()} == {"a": "loaded", "b": "broken", "c": "loaded"}
    assert plugins["b"].reason == "RuntimeError: no luck"
    (line,) = logged
    for part in ("plugin b (some-package 3.1)", "RuntimeError: no luck", "MINDFORMERS_PLUGINS", "STRICT=1"):
        assert part in line
    assert "\n" not in line


def test_one_without_a_hook_is_broken(load):
    plugins, _, logged = load(a=None)
    assert plugins["a"].state == "broken"
    assert "made_up_a has no function mindformers_register()" in logged[0]


def test_strict_raises_each_time(load, monkeypatch):
    monkeypatch.setenv(manager.STRICT, "1")
    with pytest.raises(RuntimeError, match="luck"):
        load(a=fails)
    with pytest.raises(RuntimeError, match="luck"):
        manager.load_plugins()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("", []), ("a", ["a"]), (" b , a ", ["a", "b"]), ("c,", ["c"])],
)
def test_the_list_of_names(load, monkeypatch, value, wanted):
    monkeypatch.setenv(manager.ONLY, value)
    plugins, called, logged = load(a="hook", b="hook", c="hook")
    assert sorted(called) == wanted
    assert {plugin.reason for plugin in plugins.values() if plugin.state == "off"} == {f"not in {manager.ONLY}={value}"}
    assert logged == []


def test_an_unknown_name_is_reported(load, monkeypatch):
    monkeypatch.setenv(manager.ONLY, "a,typo")
    _, called, logged = load(a="hook", b="hook")
    assert called == ["a"]
    (line,) = logged
    assert "typo" in line
    assert "a, b" in line


def test_a_plugin_that_is_off_is_not_imported(load, monkeypatch):
    monkeypatch.setenv(manager.ONLY, "b")
    plugins, _, logged = load(a=fails, b="hook")
    assert plugins["a"].state == "off"
    assert logged == []


@pytest.mark.parametrize("project", ["mindformers", "another"])
def test_a_marked_hook(load, project):
    seen = []
    plugins, _, _ = load(a=pluggy.HookimplMarker(project)(lambda: seen.append(1)))
    assert seen == [1]
    assert plugins["a"].state == "loaded"


def test_pluggy_orders_the_hooks(load):
    mark = pluggy.HookimplMarker("mindformers")
    order = []
    load(
        a=mark(trylast=True)(lambda: order.append("last")),
        b=mark()(lambda: order.append("middle")),
        c=mark(tryfirst=True)(lambda: order.append("first")),
    )
    assert order == ["first", "middle", "last"]


def test_a_hook_that_wants_arguments_is_broken(load):
    plugins, _, logged = load(a=lambda something: None)
    assert plugins["a"].state == "broken"
    assert "something" in logged[0]


class NotAnException(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(), "SystemExit"),
        (NotAnException("out"), "NotAnException: out"),
        (Silent(), "Silent: (its message cannot be shown: OSError)"),
    ],
)
def test_whatever_a_plugin_raises_the_others_are_loaded(load, error, reason):
    plugins, called, (line,) = load(a="hook", b=raises(error), c="hook")
    assert sorted(called) == ["a", "c"]
    assert (plugins["b"].state, plugins["b"].reason) == ("broken", reason)
    assert reason in line


def test_ctrl_c_is_not_swallowed(load):
    with pytest.raises(KeyboardInterrupt):
        load(a=raises(KeyboardInterrupt()), b="hook")
    assert manager._plugins is None


@pytest.mark.parametrize("adds", [True, False])
def test_not_loaded_is_said_only_when_nothing_was(load, adds):
    from mindformers.tools.register import MindFormerRegister

    def hook():
        if adds:
            MindFormerRegister.register_cls(NotAnException, "models")
        raise RuntimeError("half way")

    try:
        _, _, (line,) = load(a=hook)
    finally:
        MindFormerRegister.registry.get("models", {}).pop("NotAnException", None)
    assert ("was loaded only in part: RuntimeError: half way" in line) == adds
    assert ("was not loaded: RuntimeError: half way" in line) != adds


def test_a_wrapper_of_hooks_is_broken(load):
    def hook():
        yield

    plugins, _, (line,) = load(a=pluggy.HookimplMarker("mindformers")(wrapper=True)(hook))
    assert plugins["a"].state == "broken"
    assert "expected a plain function" in line


class OtherPackage:
    name, version = "other-package", "0.9"


class NoMetadata:
    """A distribution whose METADATA file is gone."""

    name = version = None


def points(monkeypatch, *rows):
    """Entry points (name, module name, distribution) whose hooks note the module; names called."""
    called = []
    made = []
    for name, module_name, distribution in rows:
        module = sys.modules.get(module_name) or ModuleType(module_name)
        setattr(module, manager.HOOK, lambda module_name=module_name: called.append(module_name))
        monkeypatch.setitem(sys.modules, module_name, module)
        made.append(EntryPoint(name, module_name, manager.GROUP)._for(distribution))
    monkeypatch.setattr(manager, "entry_points", lambda group: made)
    monkeypatch.setattr(manager, "_plugins", None)
    return called


@pytest.fixture
def logged(monkeypatch):
    monkeypatch.delenv(manager.ONLY, raising=False)
    monkeypatch.delenv(manager.STRICT, raising=False)
    lines: list[str] = []
    monkeypatch.setattr(manager, "_warn", lambda message, *values: lines.append(message % values))
    return lines


def test_two_plugins_of_one_name_are_both_named_and_loaded(monkeypatch, logged):
    called = points(monkeypatch, ("same", "made_up_one", Package), ("same", "made_up_two", OtherPackage))
    plugins = manager.load_plugins()
    assert sorted(called) == ["made_up_one", "made_up_two"]
    assert [(plugin.distribution, plugin.state) for plugin in plugins] == [
        ("other-package 0.9", "loaded"),
        ("some-package 3.1", "loaded"),
    ]
    assert logged == [
        "2 MindFormers plugins are named same: other-package 0.9 (made_up_two), some-package 3.1 (made_up_one)."
    ]


def test_one_module_under_two_names_is_loaded_once(monkeypatch, logged):
    called = points(monkeypatch, ("a", "made_up_one", Package), ("b", "made_up_one", Package))
    assert [plugin.state for plugin in manager.load_plugins()] == ["loaded", "broken"]
    assert called == ["made_up_one"]
    assert "made_up_one is already the module of the plugin a (some-package 3.1, made_up_one)" in logged[0]


def test_a_package_without_metadata(monkeypatch, logged):
    points(monkeypatch, ("a", "made_up_one", NoMetadata))
    (plugin,) = manager.load_plugins()
    assert (plugin.state, plugin.distribution, plugin.version) == ("loaded", "unknown package", "")
    assert logged == []
