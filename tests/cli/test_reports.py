"""What data says cannot fake a line of a report, colour a terminal or turn its direction, in any command."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import _generation, main
from mindformers_qwenvl.evaluate.data.source import DataError
from mindformers_qwenvl.pictures.images import open_image
from mindformers_qwenvl.weights.convert.report import Report
from mindformers_qwenvl.weights.shapes import listed

EVIL = "a\ntraining would read all of it\x1b[2J\u202e.png"
SAFE = r"a\ntraining would read all of it\x1b[2J\u202e.png"


@pytest.mark.parametrize("name", [EVIL, f"ftp://{EVIL}", f"file://other/{EVIL}"])
def test_pictures(name):
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        open_image(name)
    assert SAFE in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_names_of_tensors():
    assert listed([EVIL, "b"]) == f"{SAFE}, b"
    report = Report(Path("in"), Path("out"), dropped=[EVIL], overflow={EVIL: 1}, not_finite={EVIL: 1}, kept=[EVIL])
    assert str(report).count(SAFE) == 4 and not any(line.startswith("training") for line in str(report).split("\n"))


def test_lines_on_standard_error(capsys):
    _generation.say(f"sample 1: {EVIL}")
    assert capsys.readouterr().err == f"sample 1: {SAFE}\n"


def test_answers_command_no_terminal_and_stay_as_they_are_in_a_file(monkeypatch):
    assert _generation.on_screen(EVIL) == EVIL
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert _generation.on_screen("two\nlines\tand\x1b[31m") == "two\nlines\tand\\x1b[31m"


def test_an_error_of_a_command(capsys, monkeypatch):
    def fails(*_):
        raise DataError(f"bad: {'x' * 3}\x1b[2J\u202e")

    monkeypatch.setattr("mindformers_qwenvl.cli.yaml.run", fails)
    assert main(["yaml"]) == 1
    assert capsys.readouterr().err == "mindformers-qwenvl yaml: bad: xxx\\x1b[2J\\u202e\n"


def test_a_yaml_in_estimate(capsys):
    Path("a.yaml").write_text('"model\\e[2J": 1\nmodel: "\\e[2J"\n')
    assert main(["estimate", "--yaml", "a.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mindformers-qwenvl estimate: ") and "\x1b" not in said


# ---- where the host's logs go


@pytest.mark.parametrize("trap", ["link", "open to all", "none"])
def test_the_log_folder_is_this_users_alone(trap, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "mindformers-qwenvl"
    place.mkdir(parents=True, mode=0o700)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if trap == "link":
        (place / "logs").symlink_to(elsewhere)
    elif trap == "open to all":
        (place / "logs").mkdir()
        (place / "logs").chmod(0o777)
    removed = []
    monkeypatch.setattr(_generation.atexit, "register", lambda remove, folder, **_: removed.append(folder))
    folder = _generation._log_folder()
    found = folder.lstat()
    assert stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    assert (folder == place / "logs") == (trap == "none")
    assert removed == ([] if trap == "none" else [str(folder)])
    if trap != "none":
        folder.rmdir()
