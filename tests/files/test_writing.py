"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.files import (
    check_output,
    copy_file,
    remove_leftovers,
    replacing,
    write_json,
)


def test_the_name_is_given_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with replacing(path, "w") as file:
        file.write("é")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_what_failed(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_leads_to_the_new_file(tmp_path, there):
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk/a.txt").write_text("before")
    (tmp_path / "a.txt").symlink_to("disk/a.txt")
    with replacing(tmp_path / "a.txt", "w") as file:
        file.write("after")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "disk/a.txt").read_text() == "after"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["a.txt"]


def test_what_is_no_file_is_written_to():
    script = (
        "from mindformers_qwenvl.files import replacing\nwith replacing('/dev/stdout', 'w') as file: file.write('é')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == "é".encode()
    with replacing("/dev/null") as file:
        file.write(b"gone")
    assert not Path("/dev/null").is_file()


WRITE_AND_WAIT = """
import sys, time
from mindformers_qwenvl.files import replacing
with replacing(sys.argv[1], "w") as file:
    file.write("half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> subprocess.Popen:
    """A process in the middle of writing `path`."""
    process = subprocess.Popen([sys.executable, "-c", WRITE_AND_WAIT, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "a.txt"
    process = writer(path)
    (unfinished,) = tmp_path.iterdir()
    assert remove_leftovers(path) == [] and unfinished.read_text() == "half"  # it is being written
    process.send_signal(signal.SIGKILL)
    process.wait()
    others = [tmp_path / "b.txt.1-0.tmp", tmp_path / "a.txt.tmp.txt", tmp_path / "aXtxt.1-0.tmp"]
    for other in others:
        other.touch()
    with replacing(path, "w") as file:
        assert not unfinished.exists()
        file.write("whole")
    assert path.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


@pytest.mark.parametrize("name", ["a.txt.tmp", "a.txt.77.tmp", "a.txt.77-3.tmp"])
def test_names_of_leftovers(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "a.txt").touch()
    assert remove_leftovers(tmp_path / "a.txt") == [tmp_path / name]
    assert remove_leftovers(tmp_path / "nowhere/a.txt") == []


def test_a_private_file_is_private_while_it_is_written(tmp_path):
    with replacing(tmp_path / "key", permissions=0o600) as file:
        (unfinished,) = tmp_path.iterdir()
        assert unfinished.stat().st_mode & 0o777 == 0o600
        file.write(b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path, "w") as one, replacing(path, "w") as other:
        one.write("one")
        other.write("other")
    assert path.read_text() == "one"  # its block ended last
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_copies(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1]})
    copy_file(tmp_path / "a.json", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {"é": [1]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1]}


class TestCheckOutput:
    @pytest.fixture(autouse=True)
    def data(self, tmp_path):
        (tmp_path / "in.json").write_text("[]")

    def test_new_and_old_files_pass(self, tmp_path):
        (tmp_path / "old").touch()
        for name in ("old", "new"):
            check_output(tmp_path / name, tmp_path / "in.json", None, "")
        check_output("/dev/stdout", tmp_path / "in.json")

    @pytest.mark.parametrize("other", ["in.json", "symbolic", "hard", "folder/../in.json"])
    def test_an_input_is_refused(self, tmp_path, other):
        (tmp_path / "folder").mkdir()
        (tmp_path / "symbolic").symlink_to("in.json")
        (tmp_path / "hard").hardlink_to(tmp_path / "in.json")
        with pytest.raises(ValueError, match=r"would overwrite .*in\.json, which is needed"):
            check_output(tmp_path / other, None, tmp_path / "in.json")

    def test_two_outputs_of_one_name_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="would overwrite"):
            check_output(tmp_path / "new", tmp_path / "folder/../new")

    def test_no_place(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file in it"):
            check_output(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
            check_output(tmp_path / "nowhere/a")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere/a")
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
            check_output(tmp_path / "link")
        if os.geteuid():  # root may write anywhere
            (tmp_path / "locked").mkdir(mode=0o500)
            with pytest.raises(PermissionError, match=r"no permission to write .*locked"):
                check_output(tmp_path / "locked/a")
