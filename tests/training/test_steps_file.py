"""The file of a run's steps: written, killed, resumed, read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_qwenvl.training.steps_file import (
    COLUMNS,
    StepsFile,
    find_steps_files,
    read_steps,
    rewind_other_ranks,
    steps_file_name,
)


def write(path, steps, first_step=None, **more) -> None:
    file = StepsFile(path, steps[0] if first_step is None else first_step)
    for step in steps:
        file.append({"step": step, "epoch": 1, "loss": 10.0 - step, **more})
    file.close()


def numbers(path) -> list[int]:
    return [row["step"] for row in read_steps(path)]


def test_a_row_is_in_the_file_when_append_returns(tmp_path):
    file = StepsFile(tmp_path / "rank_0.csv")
    file.append({"step": 1, "epoch": 1, "loss": 1.23456789e-5, "grad_norm": None, "overflow": True})
    (row,) = read_steps(tmp_path / "rank_0.csv")  # not closed
    assert row == {**dict.fromkeys(COLUMNS), "step": 1, "epoch": 1, "loss": 1.23456789e-5, "overflow": 1}
    with pytest.raises(KeyError, match="lr"):
        file.append({"step": 2, "lr": 1.0})


def test_resumed_without_a_step_twice(tmp_path):
    path = tmp_path / "rank_0.csv"
    write(path, range(1, 8))
    write(path, range(5, 10), loss_scale=2.0)
    assert numbers(path) == list(range(1, 10))
    assert [row["loss_scale"] for row in read_steps(path)] == [None] * 4 + [2.0] * 5


def test_a_new_run_moves_the_old_file_aside(tmp_path):
    path = tmp_path / "rank_0.csv"
    write(path, range(1, 4))
    write(path, range(1, 3))
    assert numbers(path) == [1, 2]
    assert numbers(tmp_path / "rank_0.before.csv") == [1, 2, 3]
    assert find_steps_files(tmp_path) == [path]


def test_files_of_processes_that_a_new_run_does_not_have_are_set_aside(tmp_path):
    rewind_other_ranks(tmp_path, range(2), 1)  # nothing there yet
    paths = [steps_file_name(tmp_path, rank) for rank in (0, 1, 2, 10)]
    for path in paths:
        write(path, [1, 2])
    rewind_other_ranks(tmp_path, range(2), 1)
    assert find_steps_files(tmp_path) == paths[:2]
    assert numbers(paths[3].with_name("rank_10.before.csv")) == [1, 2]


def test_a_resumed_run_takes_its_steps_out_of_files_of_processes_that_it_does_not_have(tmp_path):
    paths = [steps_file_name(tmp_path, rank) for rank in (0, 1, 2, 3)]
    for path in paths[:3]:
        write(path, range(1, 7))
    write(paths[3], [5, 6], first_step=5)
    rewind_other_ranks(tmp_path, range(2), 5)
    assert [numbers(path) for path in paths] == [[*range(1, 7)], [*range(1, 7)], [1, 2, 3, 4], []]


@given(cut=st.integers(0, 400))
def test_wherever_a_file_is_cut_its_whole_lines_are_read_and_it_is_continued(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "rank_0.csv"
    write(path, range(1, 12), seconds=0.123456789)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    left = numbers(path)
    assert left == list(range(1, max(1, whole[:cut].count(b"\n"))))
    write(path, range(9, 12), first_step=9)
    assert numbers(path) == [step for step in left if step < 9] + [9, 10, 11]


def test_after_a_kill_all_rows_are_there(tmp_path):
    """Killed while it writes, without a chance to close anything."""
    path = tmp_path / "rank_0.csv"
    script = (
        "import sys\nfrom mindformers_qwenvl.training.steps_file import StepsFile\n"
        "file, step = StepsFile(sys.argv[1]), 0\n"
        "while True:\n    step += 1\n    file.append({'step': step, 'loss': step})\n"
        "    if step == 500: print('500', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "500\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = numbers(path)
    assert len(found) >= 500
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        *(("step,loss\n1,2\nx,3\n4,5\n", 3), ("step,loss\n1,2,3\n4,5\n", 2), ("step,loss\n,1\n", 2)),
        *((f"step,loss\n{step},2\n", 2) for step in ("inf", "-inf", "nan", "1.5", "1e999")),
    ],
)
def test_a_damaged_line_is_an_error(tmp_path, text, line):
    path = tmp_path / "rank_0.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"rank_0.csv, line {line}: expected 2 numbers, .* got '.*'; fix") as error:
        read_steps(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b\n", "`step` and `loss` among them, got 'a,b'"),
        (b"step,epoch\n1,1\n", "`step` and `loss` among them, got 'step,epoch'"),
        (b"loss\n1\n", "`step` and `loss` among them, got 'loss'"),
        (b"\x89PNG\r\n\x1a\n", "expected the CSV file that QwenVLMonitor writes, got bytes that are not text"),
    ],
)
def test_what_is_no_file_of_steps_is_an_error(tmp_path, content, why):
    path = tmp_path / "rank_0.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"rank_0.csv: .*{why}"):
        read_steps(path)
    with pytest.raises(ValueError, match=f"rank_0.csv: .*{why}"):
        StepsFile(path, first_step=5)
    assert path.read_bytes() == content


def test_found_from_any_folder_of_the_run_and_by_rank(tmp_path):
    paths = [steps_file_name(tmp_path / "output", rank) for rank in (0, 2, 10)]
    for path in paths:
        write(path, [1])
    for place in (tmp_path, tmp_path / "output", tmp_path / "output" / "steps"):
        assert find_steps_files(place) == paths
    assert find_steps_files(paths[1]) == [paths[1]]
    with pytest.raises(FileNotFoundError, match="QwenVLMonitor"):
        find_steps_files(tmp_path / "elsewhere")
