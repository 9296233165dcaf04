"""Which file a training is resumed from, without a training. tests/stock/test_data_parallel.py trains."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_qwenvl.host import resume_file


@pytest.fixture(scope="module")
def resume():
    from mindformers_qwenvl.host import resume

    return resume


def saved(
    folder: Path,
    rank: int,
    *steps: tuple[int, int],
    noted: tuple[int, int] | None = None,
    more: str = "",
    part: bool | None = None,
) -> None:
    """Files of `steps`, (epoch, step), and what the host notes behind the last one that is complete."""
    (folder / f"rank_{rank}").mkdir(exist_ok=True)
    for epoch, step in steps:
        file = folder / f"rank_{rank}" / f"tiny_rank_{rank}{more}-{epoch}_{step}.ckpt"
        if part is None:
            file.touch()
        else:
            save_file({"w": np.zeros(1)}, file.with_suffix(".safetensors"), {"remove_redundancy": str(part)})
    if noted:
        note = {"last_epoch": noted[0], "last_step": noted[1], "last_ckpt_file": ""}
        (folder / f"rank_{rank}" / "meta.json").write_text(json.dumps(note), encoding="utf-8")


def latest(folder: Path, named: str | None = None, suffix: str = "ckpt") -> str:
    return str(resume_file.latest(folder, f".{suffix}", named, "found").relative_to(folder))


def test_the_latest_step_of_rank_0(tmp_path):
    """In order of numbers, not of names. Rank 1 was killed a checkpoint earlier, but one file is the whole state; those
    of ranks 2 and 10 are of an earlier run with more processes."""
    saved(tmp_path, 0, (1, 2), (9, 3), (10, 1))
    saved(tmp_path, 1, (1, 2), (9, 3))
    saved(tmp_path, 2, (20, 1))
    saved(tmp_path, 10, (20, 1))
    assert latest(tmp_path) == "rank_0/tiny_rank_0-10_1.ckpt"


@pytest.mark.parametrize("part", [True, False])
def test_the_latest_step_of_parts_is_one_that_all_ranks_have(tmp_path, part):
    saved(tmp_path, 0, (1, 2), (9, 3), (10, 1), part=part)
    saved(tmp_path, 1, (1, 2), (9, 3), part=part)
    found = latest(tmp_path, suffix="safetensors")
    assert found == f"rank_0/tiny_rank_0-{'9_3' if part else '10_1'}.safetensors"


def test_parts_of_one_step_whatever_run_of_each_rank_it_was(tmp_path):
    """One process, then two: the second run of rank 0 is the first of rank 1. Of two files of a step the later one."""
    saved(tmp_path, 0, (1, 2), part=True)
    saved(tmp_path, 0, (1, 2), (2, 1), more="_1", part=True)
    saved(tmp_path, 1, (2, 1), part=True)
    saved(tmp_path, 1, (2, 1), more="_1", part=True)
    later = tmp_path / "rank_1/tiny_rank_1_1-2_1.safetensors"
    os.utime(later, ns=(later.stat().st_atime_ns, later.stat().st_mtime_ns + 10**9))
    part = tmp_path / latest(tmp_path, suffix="safetensors")
    assert part.name == "tiny_rank_0_1-2_1.safetensors"
    assert sorted(resume_file.parts_beside(part)) == [part, later]


def test_a_damaged_note_is_named(tmp_path):
    saved(tmp_path, 0, (1, 2))
    for text in ('{"last_ep', "{}", "7"):
        (tmp_path / "rank_0/meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"rank_0/meta\.json: not MindFormers' note of the last checkpoint"):
            latest(tmp_path)


def test_a_file_that_was_being_written_does_not_count(tmp_path):
    saved(tmp_path, 0, (1, 2), (2, 1), (3, 1), noted=(2, 1))
    assert latest(tmp_path) == "rank_0/tiny_rank_0-2_1.ckpt"


def test_an_empty_folder_of_a_rank_does_not_count(tmp_path):
    saved(tmp_path, 0)
    saved(tmp_path, 1, (1, 2))
    assert latest(tmp_path) == "rank_1/tiny_rank_1-1_2.ckpt"


def test_a_resumed_run_numbers_its_files(tmp_path):
    """The host does, in a folder that has files already; of two for one step the later is meant."""
    saved(tmp_path, 0, (1, 2), (2, 1), noted=(2, 1))
    saved(tmp_path, 0, (2, 1), more="_1")
    later = tmp_path / "rank_0/tiny_rank_0_1-2_1.ckpt"
    os.utime(later, ns=(later.stat().st_atime_ns, later.stat().st_mtime_ns + 10**9))
    assert latest(tmp_path) == "rank_0/tiny_rank_0_1-2_1.ckpt"


def test_parts_of_two_runs_are_an_error(tmp_path):
    """Four processes, then two in the same folder: the files of ranks 2 and 3 are old."""
    for rank in range(2):
        saved(tmp_path, rank, (1, 2), (2, 1), (3, 2), (4, 1), part=True)
    for rank in (2, 3):
        saved(tmp_path, rank, (1, 2), part=True)
    with pytest.raises(ValueError, match=r"rank_1 at epoch 4, step 1, rank_2 at epoch 1, step 2.*Move away"):
        latest(tmp_path, suffix="safetensors")


def test_no_file_is_an_error(tmp_path):
    saved(tmp_path, 0)
    with pytest.raises(FileNotFoundError, match="load_ckpt_format"):
        latest(tmp_path)


@pytest.mark.parametrize("name", ["tiny_rank_7-1_2.ckpt", "tiny_rank_0-1_2"])
def test_a_file_by_its_name_of_any_rank(tmp_path, name):
    saved(tmp_path, 0, (1, 2), (2, 1))
    assert latest(tmp_path, name) == "rank_0/tiny_rank_0-1_2.ckpt"
    with pytest.raises(FileNotFoundError, match=r"no file other_rank_0-1_2\.ckpt"):
        latest(tmp_path, "other_rank_0-1_2.ckpt")


def test_a_file_by_its_name_takes_precedence_over_other_runs(tmp_path):
    saved(tmp_path, 0, (1, 2))
    saved(tmp_path, 0, (1, 2), more="_1")
    saved(tmp_path, 1, (1, 2), more="_2")
    for name in ("tiny_rank_0-1_2.ckpt", "tiny_rank_0_1-1_2.ckpt", "tiny_rank_1_2-1_2.ckpt"):
        assert latest(tmp_path, name).endswith(f"/{name}")
    assert latest(tmp_path, "tiny_rank_9_1-1_2") == "rank_0/tiny_rank_0_1-1_2.ckpt"


def test_other_names_go_by_their_time(tmp_path):
    (tmp_path / "rank_0").mkdir()
    (tmp_path / "rank_0/mine.ckpt").touch()
    assert latest(tmp_path) == "rank_0/mine.ckpt"


def test_slices_of_weights_are_left_to_the_host(resume, tmp_path, monkeypatch):
    """In semi_auto_parallel a file is not the whole state."""
    from mindformers import MindFormerConfig

    from mindformers_qwenvl.host import context

    saved(tmp_path, 0, (1, 2))
    sections = {"use_parallel": True, "resume_training": True, "load_ckpt_format": "ckpt"}
    for mode, processes, changed in (
        ("semi_auto_parallel", 4, False),
        ("semi_auto_parallel", 1, False),
        ("data_parallel", 1, True),
        ("data_parallel", 4, True),
    ):
        monkeypatch.setattr(resume, "get_real_group_size", lambda processes=processes: processes)
        monkeypatch.setattr(context, "parallel_mode", lambda mode=mode: mode)
        config = MindFormerConfig(**sections, checkpoint=MindFormerConfig(load_path=str(tmp_path)))
        resume.choose_file(config)
        assert (config.checkpoint.load_path != str(tmp_path)) == changed, mode
    assert config.checkpoint.load_path == str(tmp_path / "rank_0/tiny_rank_0-1_2.ckpt")


@pytest.mark.parametrize("alike", [True, False])
def test_parts_of_as_many_processes_are_left_to_the_host_if_it_finds_them(resume, tmp_path, monkeypatch, alike):
    """It looks for one name in the folders of all; after a run of one process in the same folder there is none."""
    from mindformers import MindFormerConfig

    from mindformers_qwenvl.host import context

    saved(tmp_path, 0, (1, 2), part=alike)
    saved(tmp_path, 0, (2, 2), more="" if alike else "_1", part=True)
    saved(tmp_path, 1, (2, 2), part=True)
    monkeypatch.setattr(resume, "get_real_group_size", lambda: 2)
    monkeypatch.setattr(context, "parallel_mode", lambda: "data_parallel")
    sections = {"use_parallel": True, "resume_training": True, "load_ckpt_format": "safetensors"}
    config = MindFormerConfig(**sections, checkpoint=MindFormerConfig(load_path=str(tmp_path)))
    resume.choose_file(config)
    chosen = tmp_path if alike else tmp_path / "rank_0/tiny_rank_0_1-2_2.safetensors"
    assert config.checkpoint.load_path == str(chosen)
