"""Command lines that end before the command begins: refused ones, and --help."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mindformers_qwenvl.cli import main


@pytest.fixture
def usage_error(capsys) -> Callable[..., str]:
    """`usage_error(*words)`: what a command line that is refused says on stderr, its usage among it."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"usage: mindformers-qwenvl {words[0]}" in said
        return said

    return run


@pytest.fixture
def help_text(capsys) -> Callable[[str], str]:
    """`help_text(command)`: what `--help` prints."""

    def run(command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run
