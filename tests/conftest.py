"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.golden import write_checkpoint


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    """Each test runs in an empty folder of its own: importing MindFormers writes ./output into the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory) -> Callable[..., Path]:
    """`checkpoint_dir("a56")` -> an original HuggingFace directory, drawn once a session; copy it to change it."""
    drawn: dict[tuple, Path] = {}

    def factory(name: str, *, seed: int = 0, shards: int = 3) -> Path:
        key = (name, seed, shards)
        if key not in drawn:
            drawn[key] = write_checkpoint(name, tmp_path_factory.mktemp(f"hf_{name}"), seed=seed, shards=shards)
        return drawn[key]

    return factory
