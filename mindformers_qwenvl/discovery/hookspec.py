"""The hook a MindFormers plugin implements.

A plugin is a module (or any object) with a function `mindformers_register`, named in its package's pyproject.toml:

    [project.entry-points."mindformers.plugins"]
    my-model = "my_package.registration"
"""

from __future__ import annotations

import pluggy

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "mindformers"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)  # optional: it carries pluggy's options, such as `trylast=True`


@hookspec
def mindformers_register() -> None:
    """Add classes to MindFormers. Called when `mindformers` has been imported; calling it twice must do no harm."""
