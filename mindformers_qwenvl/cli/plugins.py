"""List the installed MindFormers plugins: name, package, version, state, reason."""

from __future__ import annotations

import argparse
import os
import sys

from mindformers_qwenvl.discovery.manager import GROUP, ONLY, STRICT, Plugin, load_plugins

EPILOG = f"""\
states:
  loaded  MindFormers knows what the plugin brings
  off     {ONLY} leaves it out
  broken  it raised an error; MindFormers works without it

environment:
  {ONLY}=a,b        only these plugins; empty: none; unset: all
  {STRICT}=1   a broken plugin stops `import mindformers` with its error

examples:
  mindformers-qwenvl plugins
  {ONLY}=qwenvl mindformers-qwenvl plugins
"""

__all__ = ["EPILOG", "NEEDS_HOST", "add_arguments", "run"]

NEEDS_HOST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    """Load the plugins as `import mindformers` does and print their states. 0, or 1 if MindFormers is missing."""
    os.environ.pop(STRICT, None)  # a listing shows the broken ones too
    try:
        import mindformers
    except ImportError as error:
        print(f"mindformers-qwenvl plugins: MindFormers cannot be imported: {error}", file=sys.stderr)
        return 1
    plugins = load_plugins()
    print(f"MindFormers {mindformers.__version__}, plugins of the group {GROUP}:")
    for line in _table(plugins):
        print(line)
    if not any(type(finder).__name__ == "PluginHook" for finder in sys.meta_path) and os.environ.get(ONLY) != "":
        print("The start-up hook is not in place (python -S, or installed with --target?): plugins are loaded only")
        print("in programs that contain `import mindformers_qwenvl_boot`.")
    return 0


def _table(plugins: list[Plugin]) -> list[str]:
    rows = [("NAME", "PACKAGE", "VERSION", "STATE", "REASON")]
    rows += [(plugin.name, plugin.package, plugin.version, plugin.state, plugin.reason) for plugin in plugins]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows]
