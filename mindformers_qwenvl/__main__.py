"""`python -m mindformers_qwenvl` is the command `mindformers-qwenvl`."""

import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line. Ctrl-C waits until the command is ready for it, so that no import ends in a trace."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from mindformers_qwenvl.cli import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
