"""The command `mindformers-qwenvl`: one module per command, imported only when that command is run."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from pathlib import Path

from mindformers_qwenvl import __version__
from mindformers_qwenvl.hosts import HostError, require_host

__all__ = ["main"]


def _commands() -> dict[str, Path]:
    """Command name (`convert-weight`) -> module file (`convert_weight.py`)."""
    return {path.stem.replace("_", "-"): path for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}


def _summary(path: Path) -> str:
    """First line of a module's docstring, read without importing it, so that `--help` stays instant."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def main(argv: list[str] | None = None) -> int:
    """Run one command; one whose module says NEEDS_HOST = True, only where there is MindFormers with MindSpore.

    Returns the exit code: 0 done, 1 failed, 2 bad usage (argparse exits with 2 itself), 130 interrupted by Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    commands = _commands()
    parser = argparse.ArgumentParser(
        prog="mindformers-qwenvl",
        description="Qwen-VL for MindFormers.",
        epilog="`mindformers-qwenvl COMMAND --help` shows the options and examples of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, path in commands.items():
        if name == wanted:
            module = importlib.import_module(f"{__name__}.{path.stem}")
            subparser = subparsers.add_parser(
                name,
                help=_summary(path),
                description=module.__doc__,
                epilog=module.EPILOG,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run, needs_host=getattr(module, "NEEDS_HOST", False))
        else:
            subparsers.add_parser(name, help=_summary(path))
    args = parser.parse_args(argv)
    try:
        if args.needs_host:
            require_host()
        return args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, HostError) as error:
        # Expected faults (a missing file, bad input) carry a message written for people; anything else keeps its trace.
        print(f"mindformers-qwenvl {args.command}: {error}", file=sys.stderr)
        return 1
