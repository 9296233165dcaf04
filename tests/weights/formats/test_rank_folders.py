"""The files of a training: what their names say, their order, and the last step that all ranks have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers_qwenvl.weights.formats.rank_folders import (
    SavedFile,
    last_common,
    last_noted,
    rank_folders,
    rank_of,
    saved_files,
)


def save(rank: int, *names: str) -> None:
    for name in names:
        file = Path(f"rank_{rank}/x_rank_{rank}{name}.ckpt")
        file.parent.mkdir(exist_ok=True)
        file.touch()


def common(*ranks: int) -> list[str]:
    chosen = last_common({rank: saved_files(Path(f"rank_{rank}")) for rank in ranks or rank_folders(Path())})
    return [file.path.name for file in chosen.values()]


@pytest.mark.parametrize(
    ("name", "order", "kind"),
    [
        ("qwenvl_rank_0-2_30.ckpt", (0, 2, 30), ("qwenvl", "")),
        ("qwenvl_rank_12_3-2_30.safetensors", (3, 2, 30), ("qwenvl", "")),
        ("qwenvl_rank_0_1_network-2_30.ckpt", (1, 2, 30), ("qwenvl", "_network")),
        ("qwenvl_rank_0_network-2_30.ckpt", (0, 2, 30), ("qwenvl", "_network")),
        ("a_rank_1-b_rank_0-2_30.ckpt", (0, 2, 30), ("a_rank_1-b", "")),
        ("mine-2_30.ckpt", (0, 2, 30), ("mine",)),
        ("best.ckpt", (), ("best",)),
        ("qwenvl_rank_0.ckpt", (), ("qwenvl_rank_0",)),
    ],
)
def test_what_a_name_says(name, order, kind):
    assert SavedFile.of(Path(name)) == (Path(name), order, kind)


def test_the_same_step_of_another_rank_in_another_run():
    one = SavedFile.of(Path("x_rank_0_2-1_5.ckpt"))
    for name, same in (("x_rank_3-1_5.ckpt", True), ("x_rank_3-1_6.ckpt", False), ("y_rank_3-1_5.ckpt", False)):
        assert one.is_same_step(SavedFile.of(Path(name))) is same


def test_folders_in_order_of_their_numbers():
    for name in ("rank_10", "rank_2", "rank_0_backup", "rank_x", "rank_2/deep"):
        Path(name).mkdir()
    Path("rank_3").touch()
    assert rank_folders(Path()) == {2: Path("rank_2"), 10: Path("rank_10")}
    assert rank_folders(Path("rank_2")) == rank_folders(Path("nowhere")) == {}
    assert rank_of(Path("rank_2")) == 2
    assert rank_of(Path("rank_3")) is rank_of(Path("rank_x")) is rank_of(Path("rank_9")) is None


def test_a_later_run_comes_after_a_later_step():
    save(0, "-1_9", "-10_1", "-9_3", "_2-1_1", "_10-1_1")
    names = [file.path.name for file in saved_files(Path("rank_0"))]
    assert names == [f"x_rank_0{name}.ckpt" for name in ("-1_9", "-9_3", "-10_1", "_2-1_1", "_10-1_1")]
    assert saved_files(Path("rank_0"), [".safetensors"]) == []


def test_the_last_common_step():
    save(0, "-1_1", "-1_2", "-1_3")
    save(1, "-1_1", "-1_2")
    assert common() == ["x_rank_0-1_2.ckpt", "x_rank_1-1_2.ckpt"]
    assert common(0) == ["x_rank_0-1_3.ckpt"]


def test_the_last_common_step_is_that_of_the_later_run():
    save(0, "-2_3", "_1-1_3", "_2-1_1")
    save(1, "-2_3", "_1-1_3")
    assert common() == ["x_rank_0_1-1_3.ckpt", "x_rank_1_1-1_3.ckpt"]


def test_ranks_that_count_their_runs_differently():
    """One process, then two: the second run of rank 0 is the first of rank 1."""
    save(0, "-1_2", "_1-2_1")
    save(1, "-2_1")
    assert common() == ["x_rank_0_1-2_1.ckpt", "x_rank_1-2_1.ckpt"]


def test_files_of_one_run_where_there_are():
    """Rank 1 was killed before it saved step 3 again: its weights of the first run fit those of the first run."""
    save(0, "-1_3", "_1-1_3")
    save(1, "-1_3")
    assert common() == ["x_rank_0-1_3.ckpt", "x_rank_1-1_3.ckpt"]


def test_no_common_step():
    save(0, "-1_1")
    save(1, "-1_2")
    assert common() == [] and last_common({}) == {} and last_common({0: []}) == {}


def test_the_note_of_the_last_complete_file():
    Path("rank_0").mkdir()
    assert last_noted(Path("rank_0")) is None
    note = Path("rank_0/meta.json")
    note.write_text(json.dumps({"last_epoch": 2, "last_step": 7, "last_ckpt_file": "x"}), encoding="utf-8")
    assert last_noted(Path("rank_0")) == (2, 7)
    for text in ('{"last_ep', "{}", "7", '{"last_epoch": "x", "last_step": 1}'):
        note.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"meta\.json: not MindFormers' note of the last checkpoint"):
            last_noted(Path("rank_0"))
