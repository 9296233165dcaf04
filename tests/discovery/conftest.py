"""Environments with this project installed, and plugins of other packages to install beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installed import Environment, build_wheel, new_environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def installed(tmp_path_factory, wheel) -> Environment:
    """This project as `pip install` puts it there: not editable. Read only."""
    environment = new_environment(tmp_path_factory.mktemp("installed"))
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    return environment


@pytest.fixture
def add_plugin(tmp_path) -> Callable[[str, str], Path]:
    """`add_plugin(name, source)` -> a folder for PYTHONPATH with a package of that one module, declared as a plugin."""
    folder = tmp_path / "plugins"

    def add(name: str, source: str, version: str = "1.2", module: str = "") -> Path:
        module = module or f"{name}_module"
        info = folder / f"{name}_dist-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[mindformers.plugins]\n{name} = {module}\n")
        (folder / f"{module}.py").write_text(source)
        return folder

    return add
