"""The command `mindformers-qwenvl`: one module per command, imported only when that command is run."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from mindformers_qwenvl import __version__
from mindformers_qwenvl.checks import LAYOUT, nearest, printable
from mindformers_qwenvl.cli._interrupt import Interrupts, held_back

__all__ = ["main"]


def _commands() -> dict[str, Path]:
    """Command name (`convert-weight`) -> module file (`convert_weight.py`)."""
    return {path.stem.replace("_", "-"): path for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}


def _summary(path: Path) -> str:
    """First line of a module's docstring, read without importing it, so that `--help` stays instant."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def main(argv: list[str] | None = None) -> int:
    """Run one command. If its module says NEEDS_HOST = True, MindFormers and MindSpore must be installed. If it says
    HOLDS_INTERRUPTS = True, the command gets `args.interrupts`, see `Interrupts`.

    Returns the exit code: 0 done, 1 failed, 2 bad usage (argparse exits with 2 itself), 130 interrupted by Ctrl-C.
    """
    is_program, argv = argv is None, sys.argv[1:] if argv is None else argv
    with ExitStack() as held:
        held.enter_context(held_back())  # while modules that start threads are imported, see there
        try:
            args = _parse(argv)
            if args.holds_interrupts:
                args.interrupts = held.enter_context(Interrupts())
            else:
                held.close()
                if is_program:  # __main__ has held Ctrl-C back already
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            code = _carry_out(args)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = 130
    if is_program and code == 130:
        _end_at_once(code)
    return code


def _end_at_once(code: int) -> None:
    """End the process without Python's own shutdown, during which a half-imported MindSpore aborts."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _parse(argv: list[str]) -> argparse.Namespace:
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
            subparser.set_defaults(
                run=module.run,
                needs_host=getattr(module, "NEEDS_HOST", False),
                holds_interrupts=getattr(module, "HOLDS_INTERRUPTS", False),
            )
        else:
            subparsers.add_parser(name, help=_summary(path))
    if wanted is not None and wanted not in commands:
        parser.error(
            f"there is no command {wanted!r}{nearest(wanted, commands)}; the commands are {', '.join(commands)}"
        )
    return parser.parse_args(argv)


def _carry_out(args: argparse.Namespace) -> int:
    from mindformers_qwenvl.versions import HostError, require_host

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or file that is not UTF-8 gets escapes, not an error at the end
            stream.reconfigure(errors="backslashreplace")
    try:
        if args.needs_host:
            require_host()
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head -1` has read enough
        _forget_stdout()
        return 1
    except (OSError, ValueError, HostError) as error:
        # Expected faults (a missing file, bad input) carry a message written for people; other errors keep their trace.
        message = printable(error, keep=LAYOUT)
        if getattr(args, "allow_private", ()) != ():  # a command with options for which pictures are allowed
            from mindformers_qwenvl.cli._inputs import in_options

            message = in_options(message)
        print(f"mindformers-qwenvl {args.command}: {message}", file=sys.stderr)
        return 1


def _forget_stdout() -> None:
    """Nobody is reading any more, so the last flush must not complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
