"""The YAMLs of yaml/, and any overlay, as MindFormers reads them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.recipes import RecipeError, dump, find, yaml_dir
from mindformers_qwenvl.recipes import read as read_recipe
from tests.support.recipes import ALL, BASE, read

pytestmark = pytest.mark.usefixtures("graph_mode")


def of_the_host(path: Path | str) -> dict:
    """What MindFormers reads, before it adds its defaults."""
    from mindformers import MindFormerConfig

    return MindFormerConfig._file2dict(str(path))


def check_within(config, values, key: str = "") -> None:
    """All of `values` are in the host's `config`, which has its defaults beside them."""
    for name, value in values.items():
        if isinstance(value, dict):
            check_within(config[name], value, f"{key}{name}.")
        else:
            assert config[name] == value, f"{key}{name}"


@pytest.mark.parametrize("name", ALL)
def test_mindformers_takes_it(name):
    """MindFormers raises KeyError for keys it does not know, in most sections."""
    from mindformers import MindFormerConfig

    config = MindFormerConfig(str(find(name)))
    assert config.run_mode == name.split("_")[0]
    assert config.trainer.type == "MultiModalToTextGenerationTrainer"
    check_within(config, read(name))
    assert of_the_host(find(name)) == read(name)


@pytest.mark.parametrize("name", ALL)
def test_a_copy_works_wherever_it_is(name, tmp_path, monkeypatch, capsys):
    """From the current folder, and by a path from another; the original files are not needed."""
    monkeypatch.chdir(tmp_path)
    assert main(["yaml", name, "--copy", "there"]) == 0
    assert not any(str(yaml_dir()) in file.read_text(encoding="utf-8") for file in Path("there").iterdir())
    assert of_the_host(f"there/{name}.yaml") == read_recipe(f"there/{name}.yaml") == read(name)
    monkeypatch.chdir("there")
    assert of_the_host(f"{name}.yaml") == read_recipe(f"{name}.yaml") == read(name)


@pytest.mark.parametrize("name", ALL)
def test_the_resolved_text_says_the_same(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["yaml", name, "--resolved"]) == 0
    text = capsys.readouterr().out
    assert main(["yaml", name, "--resolved", "--copy", "."]) == 0
    assert Path(f"{name}.yaml").read_text(encoding="utf-8") == text
    assert of_the_host(f"{name}.yaml") == read(name)
    assert not re.search(r"[&*]id[0-9]", text)


def test_the_trainer_takes_the_train_dataset_of_an_overlay(tmp_path):
    """An overlay that changes train_dataset, and not the copy of it that train_dataset_task has from the base."""
    from mindformers import MindFormerConfig
    from mindformers.dataset import check_dataset_config

    (tmp_path / "mine.yaml").write_text(
        f"base_config: {find(BASE)}\ntrain_dataset: {{data_loader: {{annotation_file: mine.json}}}}\n"
    )
    config = MindFormerConfig(str(tmp_path / "mine.yaml"))
    check_dataset_config(config)  # the first thing the stock Trainer does
    assert config.train_dataset_task.dataset_config.data_loader.annotation_file == "mine.json"


VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.just("text") | st.lists(st.integers(0, 3), max_size=2),
    # Not an empty section: against a list, the host ignores it, and `read` refuses it.
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)
FILES = st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES, min_size=1, max_size=4), min_size=4, max_size=4)


@hypothesis_settings(max_examples=150)
@given(files=FILES, shape=st.sampled_from(["chain", "several", "both"]))
def test_any_overlay_is_read_as_mindformers_reads_it(files, shape):
    """0 is what is read; or both readers refuse, where a section stands against another value."""
    bases = {
        "chain": {0: "1.yaml", 1: "2.yaml", 2: "3.yaml"},
        "several": {0: ["1.yaml", "2.yaml", "3.yaml"]},
        "both": {0: ["1.yaml", "2.yaml"], 1: "3.yaml", 2: ["3.yaml"]},
    }[shape]
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(files):
            base = {"base_config": bases[number]} if number in bases else {}
            Path(folder, f"{number}.yaml").write_text(dump({**content, **base}), encoding="utf-8")
        path = Path(folder, "0.yaml")
        try:
            found = read_recipe(path)
        except RecipeError:
            with pytest.raises((AttributeError, TypeError)):
                of_the_host(path)
        else:
            assert found == of_the_host(path)
