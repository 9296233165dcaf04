"""Checkpoints of the port that MindFormers had in its tree, made from a golden set as its convert script makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.config.original import read_original
from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.formats.ckpt_file import value_header
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.in_tree import as_ours, is_in_tree, refuse_in_tree
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.names import to_ours
from tests.support.checkpoints import ROOT, original_bytes
from tests.support.golden import draw_checkpoint, golden_set

CONFIG = golden_set("a56").config
HEADS = CONFIG["visual"]["heads"]
LAYERS = "llm_model.transformer.layers"


def in_tree_tensors(concat: bool = False, padding: int = 0) -> dict[str, np.ndarray]:
    """Old name -> array, with the names and shapes of the old network. `concat`: its `qkv_concat`; `padding`: rows
    that its `enable_emb_opt` adds."""
    tensors = {}
    for name, value in draw_checkpoint("a56").items():
        ours = to_ours(name)
        kind = "bias" if name.endswith("bias") else "weight"
        block = ours[0].rpartition(".attn.")[0] + ".attn."
        if "resblocks" in name and ".attn.in_proj" in name:
            heads = value.reshape(HEADS, 3, -1, *value.shape[1:])  # of each head q, k, v
            for part in range(3):
                tensors[f"{block}dense{part + 1}.{kind}"] = heads[:, part].reshape(-1, *value.shape[1:])
        elif "attn_pool.attn.in_proj" in name:
            tensors |= {f"{block}dense{part + 1}.{kind}": rows for part, rows in enumerate(np.split(value, 3))}
        elif "visual" in name and ".attn.out_proj" in name:
            tensors[f"{block}projection.{kind}"] = value.T.copy()
        elif "attn.c_attn" in name and concat:
            tensors[ours[0].replace(".wq.", ".w.")] = value
        elif "wte" in name or "lm_head" in name:
            tensors[ours[0]] = np.pad(value, ((0, padding), (0, 0)))
        else:
            tensors |= dict(zip(ours, np.split(value, len(ours)), strict=True))
    return tensors


def write_ckpt(path: str, tensors: dict[str, np.ndarray]) -> None:
    with Path(path).open("wb") as file:
        for name, value in tensors.items():
            data = value.tobytes()
            file.write(value_header(name, "F32", value.shape, len(data)) + data)


@pytest.fixture
def ours(checkpoint_dir) -> dict[str, np.ndarray]:
    convert(checkpoint_dir("a56"), "wanted.safetensors")
    return load_file("wanted.safetensors")


def test_the_old_names_are_these():
    old = in_tree_tensors()
    assert is_in_tree(old)
    assert old["vision_encoder.transformer.resblocks.0.attn.dense3.weight"].shape == (CONFIG["visual"]["width"],) * 2
    known = {part for name in draw_checkpoint("a56") for part in to_ours(name)}
    assert not is_in_tree(known)
    different = {name.split(".attn.")[1] for name in old.keys() - known}
    assert different == {f"{p}.{k}" for p in ("dense1", "dense2", "dense3", "projection") for k in ("weight", "bias")}


@pytest.mark.parametrize("options", [{}, {"concat": True, "padding": 8}])
@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_it_becomes_ours(form, options, ours, checkpoint_dir, monkeypatch):
    old = in_tree_tensors(**options)
    state = {f"adam_m.{name}": np.zeros_like(value) for name, value in old.items()}
    write_ckpt("old.ckpt", old | state) if form == "ckpt" else save_file(old | state, "old.safetensors")
    monkeypatch.setattr(transfer, "BLOCK", 1000)  # blocks begin and end inside of heads and turned rows
    report = convert(f"old.{form}", "new.safetensors", config=checkpoint_dir("a56"), verify=True)
    new = load_file("new.safetensors")
    assert new.keys() == ours.keys()
    assert all(np.array_equal(new[name], ours[name]) for name in ours)
    assert (report.tensors_read, report.tensors_written) == (len(old), len(ours))
    assert sorted(report.dropped) == sorted(state)
    assert "MindFormers' own tree (up to 1.5)" in str(report)
    assert ("rows beyond the vocabulary: " in str(report)) == bool(options)


def test_cast_and_back_to_the_original(checkpoint_dir, ours):
    write_ckpt("old.ckpt", in_tree_tensors(concat=True))
    convert("old.ckpt", "back", reverse=True, config=checkpoint_dir("a56"), verify=True)
    assert original_bytes(Path("back")) == original_bytes(checkpoint_dir("a56"))
    convert("old.ckpt", "half.ckpt", dtype="fp16", config=checkpoint_dir("a56"), verify=True)
    with Checkpoint("half.ckpt") as half:
        assert all(np.array_equal(half.read(name), value.astype(np.float16).ravel()) for name, value in ours.items())


def test_ranks_of_an_old_training(checkpoint_dir, ours):
    old = in_tree_tensors()
    for rank in (0, 1):
        Path(f"old/rank_{rank}").mkdir(parents=True)
        write_ckpt(f"old/rank_{rank}/qwenvl_rank_{rank}-3_2.ckpt", old)
    convert("old", "new.safetensors", config=checkpoint_dir("a56"))
    assert all(np.array_equal(value, ours[name]) for name, value in load_file("new.safetensors").items())
    with pytest.raises(ValueError, match="convert-weight --input_path old"):
        refuse_in_tree("old")


def test_a_folder_of_shards_loads_without_conversion(checkpoint_dir, ours):
    old, folder = in_tree_tensors(), Path("old")
    folder.mkdir()
    for number, names in enumerate(np.array_split(np.array(list(old), object), 3)):
        save_file({name: old[name] for name in names}, folder / f"{number}.safetensors")
    (folder / "config.json").write_bytes((checkpoint_dir("a56") / "config.json").read_bytes())
    loaded = dict(load_original(folder))
    assert loaded.keys() == ours.keys()
    assert all(np.array_equal(loaded[name], ours[name]) for name in ours)


BLOCK = "vision_encoder.transformer.resblocks.1.attn"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({f"{BLOCK}.dense2.weight": None}, f"but no {BLOCK}.dense2.weight"),
        ({f"{BLOCK}.dense1.bias": None}, f"but no {BLOCK}.dense1.bias"),
        ({f"{BLOCK}.dense3.bias": np.zeros(2, np.float32)}, "their rows divisible by 4 heads"),
        ({f"{LAYERS}.0.attention.w.bias": np.zeros(5, np.float32)}, "rows cannot be split into three equal parts"),
        ({f"{LAYERS}.0.attention.w.bias": np.zeros(6, np.float32)}, "mixes two checkpoints"),
        ({f"{BLOCK}.in_proj.bias": np.zeros(6, np.float32)}, "mixes two checkpoints"),
        ({"vision_encoder.ln_post.gamma": None}, r"1 missing: vision_encoder\.ln_post\.gamma"),
        ({"vision_encoder.attn_pool.attn.projection.weight": np.zeros((2, 3), np.float32)}, r"wo\.weight is \[3, 2\]"),
    ],
)
def test_what_does_not_fit_is_named(change, reason, checkpoint_dir):
    tensors = {name: value for name, value in (in_tree_tensors() | change).items() if value is not None}
    write_ckpt("old.ckpt", tensors)
    with pytest.raises(ValueError, match=reason):
        convert("old.ckpt", "new.ckpt", config=checkpoint_dir("a56"))
    assert not Path("new.ckpt").exists()


def test_ours_and_what_cannot_be_read_are_not_refused(checkpoint_dir, ours):
    refuse_in_tree("wanted.safetensors")
    refuse_in_tree(checkpoint_dir("a56"))
    refuse_in_tree("nothing.ckpt")
    Path("text.ckpt").write_text("no checkpoint")
    refuse_in_tree("text.ckpt")
    with Checkpoint("wanted.safetensors") as checkpoint:
        assert as_ours(checkpoint, read_original(checkpoint_dir("a56"))) is checkpoint


@pytest.mark.parametrize("key", ["load_checkpoint", "checkpoint"])
def test_load_checkpoint_in_a_yaml_is_a_clear_error(key):
    """Stock MindFormers would load what it knows by name and go on."""
    from mindformers.tools.register import MindFormerConfig

    from mindformers_qwenvl.host.trainer import FullConfigTrainer

    write_ckpt("old.ckpt", in_tree_tensors())
    config = MindFormerConfig(str(ROOT / "yaml" / "finetune_qwenvl_tiny.yaml"))
    config[key] = "old.ckpt" if key == "load_checkpoint" else MindFormerConfig(load_path="old.ckpt")
    with pytest.raises(ValueError, match=r"old\.ckpt is a checkpoint of the Qwen-VL .* MindFormers up to 1\.5"):
        FullConfigTrainer(model_name="qwenvl_9.6b").set_config(config, is_full_config=True)


def test_checkpoint_name_or_path_of_the_configuration_too(checkpoint_dir):
    from mindformers_qwenvl import QwenVL, QwenVLConfig

    write_ckpt("old.ckpt", in_tree_tensors())
    config = QwenVLConfig.from_pretrained(str(checkpoint_dir("a56")), checkpoint_name_or_path="old.ckpt")
    with pytest.raises(ValueError, match=r"^checkpoint_name_or_path: old\.ckpt is a checkpoint of the Qwen-VL"):
        QwenVL(config)
