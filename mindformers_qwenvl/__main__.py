"""`python -m mindformers_qwenvl` is the command `mindformers-qwenvl`."""

import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line. Ctrl-C is held back until the command can handle it: no import ends in a traceback."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from mindformers_qwenvl.cli import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
