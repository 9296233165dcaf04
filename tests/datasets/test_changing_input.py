"""Datasets that somebody writes to while they are read: no result mixes two states of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mindformers_qwenvl.datasets import split as splitting
from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.datasets.check.checker import check_file
from mindformers_qwenvl.datasets.check.fix import fix_file
from mindformers_qwenvl.datasets.check.job import read_settings
from mindformers_qwenvl.datasets.convert.converter import convert_file
from tests.support.check_samples import talk, write_yaml

RECORDS = [talk(f"q{number}") for number in range(4)]


@pytest.fixture
def changing(monkeypatch):
    """data.json, which is written to when its third record is read."""
    Path("data.json").write_text(json.dumps(RECORDS))
    read = AnnotationFile.record

    def record(self, index):
        if index == 2:
            os.utime("data.json", ns=(1, 1))
        return read(self, index)

    monkeypatch.setattr(AnnotationFile, "record", record)


@pytest.mark.parametrize("command", ["fix", "split", "check"])
def test_nothing_is_written(changing, command, tmp_path):
    settings = read_settings(write_yaml(tmp_path))
    with pytest.raises(ValueError, match=r"data\.json changed while it was being read"):
        if command == "fix":
            fix_file("data.json", "out.json", settings)
        elif command == "split":
            splitting.split_file("data.json", 0.5)
        else:
            check_file("data.json", settings)
    assert sorted(path.name for path in Path().iterdir()) == ["data.json", "finetune.yaml"]


def test_a_conversion_of_data_that_changes_writes_nothing():
    Path("data.json").write_text(json.dumps(RECORDS))
    with pytest.raises(ValueError, match=r"data\.json changed while it was being read"):
        convert_file("data.json", ".", "out.json", progress=lambda count: os.utime("data.json", ns=(1, 1)))
    assert [path.name for path in Path().iterdir()] == ["data.json"]
