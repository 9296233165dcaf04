"""Where a conversion refuses to write, and two of them at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from mindformers_qwenvl.weights.convert import convert
from tests.weights.checkpoints import original_bytes


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
