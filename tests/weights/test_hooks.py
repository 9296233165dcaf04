"""Original folders that a YAML's `load_checkpoint` names, and that are not whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX
from mindformers_qwenvl.weights.hooks import refuse_incomplete
from tests.support.checkpoints import ROOT
from tests.support.golden import draw_checkpoint

NAME = "transformer.visual.ln_post.weight"


@pytest.fixture
def folder(checkpoint_dir):
    """An original folder `hf` of two shards, an index and config.json."""
    path, tensors = Path("hf"), draw_checkpoint("a56")
    path.mkdir()
    names = sorted(tensors)
    shards = {"1.safetensors": names[::2], "2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, path / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (path / SAFETENSORS_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (path / "config.json").write_bytes((checkpoint_dir("a56") / "config.json").read_bytes())
    return path


def without(folder: Path, name: str, in_index: bool) -> None:
    index = json.loads((folder / SAFETENSORS_INDEX).read_text())
    file = folder / index["weight_map"][name]
    save_file({other: value for other, value in load_file(file).items() if other != name}, file)
    if not in_index:
        del index["weight_map"][name]
        (folder / SAFETENSORS_INDEX).write_text(json.dumps(index))


def test_a_whole_folder_passes(folder):
    refuse_incomplete("hf")
    (folder / SAFETENSORS_INDEX).unlink()
    refuse_incomplete("hf")
    refuse_incomplete("nothing")


def test_a_missing_shard_is_named(folder):
    (folder / "2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^load_checkpoint: .* names shards that do not exist: 2\.safetensors"):
        refuse_incomplete("hf")


@pytest.mark.parametrize("in_index", [True, False])
def test_a_missing_tensor_is_named(folder, in_index):
    without(folder, NAME, in_index)
    with pytest.raises(ValueError, match=rf"^load_checkpoint: [^$]*{NAME}"):
        refuse_incomplete("hf")


def test_a_folder_that_is_a_part_on_purpose_passes(folder):
    """Of our names, or beside the config.json of the language model alone."""
    convert(folder, "ours")
    names = list(load_file("ours/model.safetensors").items())
    save_file(dict(names[:5]), "ours/model.safetensors")
    Path("ours", SAFETENSORS_INDEX).unlink(missing_ok=True)
    refuse_incomplete("ours")
    without(folder, NAME, in_index=False)
    (folder / "config.json").write_text('{"model_type": "qwen"}')
    refuse_incomplete("hf")


def test_folders_of_ranks_are_left_to_the_host():
    """It resumes from one file of them, whatever the others are."""
    for step in ("rank_0/x_rank_0-1_1", "rank_1/x_rank_1-1_2"):
        Path("ck", step).parent.mkdir(parents=True)
        Path("ck", f"{step}.safetensors").write_bytes(b"")
    refuse_incomplete("ck")
    refuse_incomplete("ck/rank_0")


def test_bin_files_are_to_be_converted():
    Path("hf").mkdir()
    Path("hf/pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"PyTorch's \.bin files.* convert-weight --input_path hf --output_path"):
        refuse_incomplete("hf")


def test_load_checkpoint_in_a_yaml(folder):
    pytest.importorskip("mindspore")
    from mindformers.tools.register import MindFormerConfig

    from mindformers_qwenvl.host.trainer import FullConfigTrainer

    (folder / "2.safetensors").unlink()
    config = MindFormerConfig(str(ROOT / "yaml" / "finetune_qwenvl_tiny.yaml"))
    config.load_checkpoint, config.load_ckpt_format = "hf", "safetensors"
    with pytest.raises(ValueError, match=r"shards that do not exist: 2\.safetensors"):
        FullConfigTrainer(model_name="qwenvl_9.6b").set_config(config, is_full_config=True)
