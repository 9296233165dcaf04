"""The names of checkpoints after a resume within an epoch; test_resume_faults.py has those of the host alone."""

from __future__ import annotations

from safetensors.numpy import load_file

from tests.support.checkpoints import names_of_a_resumed_run


def test_a_checkpoint_has_the_step_of_the_epoch_in_its_name(tmp_path):
    from mindspore import nn

    from mindformers_qwenvl.host.checkpoint_names import name_checkpoints_by_their_step
    from mindformers_qwenvl.weights.formats.rank_folders import saved_files

    name_checkpoints_by_their_step()
    assert names_of_a_resumed_run(str(tmp_path), nn.Dense(2, 2)) == ["4_1", "4_3"]
    files = [load_file(file.path) for file in saved_files(tmp_path / "checkpoint/rank_0")]
    assert [int(file["step_num"].item()) for file in files] == [10, 12]  # those in the files were right before
