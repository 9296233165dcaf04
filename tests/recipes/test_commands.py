"""Commands read a YAML with its bases, whether shipped or one's own, and refuse what MindFormers could not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.estimate import estimate, read_job
from mindformers_qwenvl.recipes import find
from tests.support.recipes import FINETUNE, get, read


@pytest.mark.parametrize("name", FINETUNE)
def test_check_data_and_estimate_read_it(name):
    settings = read(name)
    assert read_settings(find(name)).max_length == get(settings, "train_dataset.modal_to_text_transform.max_length")
    assert estimate(read_job(find(name))).total > 0


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """An overlay in a folder of its own, on a copy of a shipped YAML."""
    monkeypatch.chdir(tmp_path)
    assert main(["yaml", "finetune_qwenvl_9.6b_stage1", "--copy", "copied"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base_config: copied/finetune_qwenvl_9.6b_stage1.yaml\n"
        "train_dataset: {modal_to_text_transform: {max_length: 300}}\n"
        "parallel_config: {data_parallel: 4}\n"
    )
    return path


def test_an_overlay_of_an_overlay(mine):
    """It says what the same changes by `--set` say."""
    changes = ["train_dataset.modal_to_text_transform.max_length=300", "parallel_config.data_parallel=4"]
    stage_1 = find("finetune_qwenvl_9.6b_stage1")
    assert read_settings(mine).max_length == 300
    assert estimate(read_job(mine)).total == estimate(read_job(stage_1, changes)).total
    assert estimate(read_job(mine)).total != estimate(read_job(stage_1)).total


@pytest.mark.parametrize(
    "words", [("estimate", "--yaml", "mine.yaml"), ("check-data", "data.json", "--yaml", "mine.yaml", "--quiet")]
)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_config: gone.yaml\n", "mine.yaml: its base_config: gone.yaml: no such file"),
        ("base_config: mine.yaml\n", "base_config goes round in a circle"),
        ("a: [\n", "mine.yaml, line 2, column 1: not valid YAML"),
    ],
)
def test_faults_are_named(mine, capsys, words, text, message):
    mine.write_text(text)
    assert main(list(words)) in (1, 2)
    assert message in capsys.readouterr().err
