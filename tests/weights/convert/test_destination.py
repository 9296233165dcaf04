"""Where a conversion refuses to write, and two of them at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.destination import locked
from mindformers_qwenvl.weights.convert.workfolder import WorkFolder
from tests.support.checkpoints import original_bytes


@pytest.mark.parametrize("linked", [False, True])
def test_the_folder_of_the_input_file_is_refused(linked, checkpoint_dir):
    convert(checkpoint_dir("a56"), "ms1")
    before = original_bytes(Path("ms1"))
    source = Path("ms1/model.safetensors")
    if linked:
        Path("elsewhere").mkdir()
        source = Path("elsewhere/model.safetensors")
        source.symlink_to(Path("ms1/model.safetensors").resolve())
    with pytest.raises(ValueError, match=r"ms1 holds model\.safetensors, which is the input: give another"):
        convert(source, "ms1", reverse=True, config=checkpoint_dir("a56"))
    assert original_bytes(Path("ms1")) == before


def test_a_file_of_a_rank_is_refused(checkpoint_dir):
    convert(checkpoint_dir("a56"), "one.ckpt")
    file = Path("ck/rank_0/qwenvl_rank_0-1_2.ckpt")
    file.parent.mkdir(parents=True)
    shutil.move("one.ckpt", file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"1_2\.ckpt is a file of the input: give another"):
        convert("ck", file, config=checkpoint_dir("a56"))
    assert file.read_bytes() == before


def test_a_folder_beside_the_ranks_is_no_input(checkpoint_dir):
    """The files that are read lie in folders below, which nothing touches."""
    convert(checkpoint_dir("a56"), "ck/rank_0/qwenvl_rank_0-1_2.ckpt")
    convert("ck/rank_0", "ck", config=checkpoint_dir("a56"))
    assert len(load_file("ck/model.safetensors")) == 73


@pytest.mark.parametrize("output", ["out", "out.safetensors", "out.ckpt"])
def test_two_at_once(output, checkpoint_dir):
    message = f"^{output}: another conversion is writing it; wait for it or give another output path$"
    with locked(Path(output)), pytest.raises(ValueError, match=message):
        convert(checkpoint_dir("a56"), output)
    convert(checkpoint_dir("a56"), output, verify=True)
    assert not list(Path().rglob("*.lock"))


def test_a_lock_of_a_dead_process_holds_nobody_up(checkpoint_dir):
    Path(".out.ckpt.lock").touch()
    convert(checkpoint_dir("a56"), "out.ckpt")
    assert not Path(".out.ckpt.lock").exists()


def test_a_shard_that_is_gone_is_named(checkpoint_dir, monkeypatch):
    publish = WorkFolder.publish

    def without_one(self, *rest):
        Path("out/conversion.unfinished/model.safetensors").unlink()
        return publish(self, *rest)

    with monkeypatch.context() as patched, pytest.raises(FileNotFoundError, match=r"shard model\.safetensors is gone"):
        patched.setattr(WorkFolder, "publish", without_one)
        convert(checkpoint_dir("a56"), "out")
    assert convert(checkpoint_dir("a56"), "out", verify=True).verified


@pytest.mark.parametrize("output", ["out", "out.ckpt"])
def test_the_room_of_what_is_written_again_is_free(output, checkpoint_dir, monkeypatch):
    """After a kill on a disk that is nearly full."""
    needed, left_bytes = 8_464_856, 8_000_000
    left = Path("out/conversion.unfinished/model.safetensors.tmp" if output == "out" else "out.ckpt.1-0.tmp")
    if output == "out":
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(WorkFolder, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            convert(checkpoint_dir("a56"), output)
    left.write_bytes(b"x" * left_bytes)

    def disk_usage(path):
        return SimpleNamespace(free=needed + 10_000 - (left_bytes if left.exists() else 0))

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    convert(checkpoint_dir("a56"), output)
    assert not left.exists()
