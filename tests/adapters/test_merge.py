"""Merging: the golden merged weights, every dtype and layout, DoRA, and what a conversion leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers_qwenvl.adapters import merge
from mindformers_qwenvl.adapters.convert import Merging
from mindformers_qwenvl.cli import main
from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import cast
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.names import to_ours
from tests.support import lora
from tests.support.golden import draw_checkpoint

C_ATTN = "transformer.h.0.attn.c_attn"


def expected(name: str, which: str = "adapter") -> dict[str, np.ndarray]:
    """The merged weights in float64, as peft 0.10 computes them."""
    weights = {key: value.astype(np.float64) for key, value in draw_checkpoint(name).items()}
    tensors = lora.factors(name, which)
    for key, value in tensors.items():
        plain = key.removeprefix(lora.PREFIX)
        if plain.endswith(".lora_A.weight"):
            module = plain.removesuffix(".lora_A.weight")
            up = tensors[f"{lora.PREFIX}{module}.lora_B.weight"]
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + 2 * up.astype(np.float64) @ value
        elif "lora_" not in plain:
            weights[plain] = value.astype(np.float64)
    return weights


@pytest.mark.parametrize("which", ["adapter", "adapter_base"])
@pytest.mark.parametrize("name", ["a56", "b224"])
def test_golden(name, which, checkpoint_dir):
    merging = Merging(lora.adapter_dir(name, which))
    report = convert(checkpoint_dir(name), "merged", reverse=True, overlay=merging, verify=True)
    assert report.verified
    merged = load_file("merged/model.safetensors")
    for key, value in expected(name, which).items():
        np.testing.assert_allclose(merged[key], value, atol=1e-6, rtol=0, err_msg=key)
    if which == "adapter":
        weight = merged[f"{C_ATTN}.weight"]
        np.testing.assert_allclose(weight[::16, ::8], lora.lora_arrays(name)["merged.h0.c_attn"], atol=1e-7)
        sums = [weight.sum(dtype=np.float64), np.abs(weight).sum(dtype=np.float64)]
        np.testing.assert_allclose(sums, lora.lora(name)["merged.h0.c_attn.sum"], rtol=1e-7)


def test_into_our_layout_and_from_it(checkpoint_dir, monkeypatch):
    """Wherever blocks begin, and in whatever names base and result are, the numbers are the same to the last bit."""
    adapter = lora.adapter_dir("a56")
    convert(checkpoint_dir("a56"), "whole", reverse=True, overlay=Merging(adapter))
    convert(checkpoint_dir("a56"), "plain.ckpt")
    monkeypatch.setattr(transfer, "BLOCK", 1000)
    convert(checkpoint_dir("a56"), "ours.safetensors", overlay=Merging(adapter), verify=True)
    config = checkpoint_dir("a56")
    convert("plain.ckpt", "again.safetensors", reverse=True, overlay=Merging(adapter), config=config, verify=True)
    convert("plain.ckpt", "in_place.ckpt", overlay=Merging(adapter), config=config, verify=True)
    whole, ours, again = (
        load_file("whole/model.safetensors"),
        load_file("ours.safetensors"),
        load_file("again.safetensors"),
    )
    assert {key: value.tobytes() for key, value in whole.items()} == {
        key: value.tobytes() for key, value in again.items()
    }
    with Checkpoint("in_place.ckpt") as in_place:
        for key, value in whole.items():
            joined = np.concatenate([ours[part] for part in to_ours(key)])
            assert np.array_equal(joined, value), key
            assert b"".join(in_place.read(part).tobytes() for part in to_ours(key)) == value.tobytes()


@pytest.mark.parametrize(("dtype", "code"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_rounded_once(dtype, code, checkpoint_dir):
    """From a bf16 base: computed in float32, and rounded to the dtype of the result only."""
    convert(checkpoint_dir("a56"), "ours", dtype="bf16")
    convert("ours", "bf16", reverse=True)
    convert("bf16", "merged", reverse=True, dtype=dtype, overlay=Merging(lora.adapter_dir("a56")), verify=True)
    tensors = lora.factors("a56")
    with Checkpoint("bf16") as base, Checkpoint("merged") as merged:
        weight = base.read(f"{C_ATTN}.weight").astype(np.uint32) << 16
        weight = weight.view(np.float32).reshape(768, 256)
        a, b = (tensors[f"{lora.PREFIX}{C_ATTN}.lora_{kind}.weight"] for kind in "AB")
        whole = weight + np.float32(2) * (b.astype(np.float64) @ a).astype(np.float32)
        wanted, _ = cast(whole.reshape(-1), "F32", code)
        found = merged.read(f"{C_ATTN}.weight")
        assert merged.tensors[f"{C_ATTN}.weight"].dtype == code
    if code == "F32":
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    else:  # the last bit of the product may round to either side
        assert np.mean(found == wanted) > 0.999


def test_dora(tmp_path, checkpoint_dir):
    """W' = m (W + s B A) / |W + s B A|, the norm of each row (arXiv 2402.09353), in the names of old and new peft."""
    tensors, weights = lora.factors("a56"), draw_checkpoint("a56")
    rng, magnitudes = np.random.default_rng(0), {}
    for key in [key for key in tensors if key.endswith("lora_B.weight")]:
        module = key.removeprefix(lora.PREFIX).removesuffix(".lora_B.weight")
        magnitudes[module] = rng.uniform(0.5, 2, len(tensors[key])).astype(np.float32)
        tensors[f"{lora.PREFIX}{module}.lora_magnitude_vector" + ("" if ".h.0." in module else ".weight")] = magnitudes[
            module
        ]
    lora.write(tmp_path / "dora", tensors, use_dora=True)
    merging = Merging(tmp_path / "dora")
    convert(checkpoint_dir("a56"), "merged", reverse=True, overlay=merging, verify=True)
    merged = load_file("merged/model.safetensors")
    for module, magnitude in magnitudes.items():
        a, b = (tensors[f"{lora.PREFIX}{module}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
        whole = weights[f"{module}.weight"] + 2 * b @ a
        wanted = magnitude[:, None] * whole / np.linalg.norm(whole, axis=1, keepdims=True)
        np.testing.assert_allclose(merged[f"{module}.weight"], wanted, atol=1e-6)
    sizes = {change.module: change.size for change in merging.changes()}
    assert sizes[C_ATTN] > 0.1


def test_an_adapter_of_the_embedding(tmp_path, checkpoint_dir):
    """peft stores it the other way round: weight += scale (B A)^T."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((8, 1024)).astype(np.float32), rng.standard_normal((256, 8)).astype(np.float32)
    names = {f"{lora.PREFIX}transformer.wte.lora_embedding_{kind}": value for kind, value in (("A", a), ("B", b))}
    lora.write(tmp_path / "a", names)
    convert(checkpoint_dir("a56"), "merged", reverse=True, overlay=Merging(tmp_path / "a"))
    wanted = draw_checkpoint("a56")["transformer.wte.weight"] + 2 * (b.astype(np.float64) @ a).T
    np.testing.assert_allclose(load_file("merged/model.safetensors")["transformer.wte.weight"], wanted, atol=1e-5)


def test_sizes_of_the_change(checkpoint_dir):
    merging = Merging(lora.adapter_dir("a56"))
    convert(checkpoint_dir("a56"), "merged", reverse=True, overlay=merging)
    weights, tensors = draw_checkpoint("a56"), lora.factors("a56")
    assert len(merging.changes()) == 8
    for change in merging.changes():
        a, b = (tensors[f"{lora.PREFIX}{change.module}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
        wanted = np.linalg.norm(2 * b @ a) / np.linalg.norm(weights[f"{change.module}.weight"])
        assert change.size == pytest.approx(wanted, rel=1e-5)


def test_memory_is_a_few_rows(checkpoint_dir, monkeypatch):
    """Never a whole weight: what is computed together are `ROWS` rows."""
    largest = []
    rows = merge.Merged._rows

    def spied(self, name, place, row, count, *sizes):
        largest.append(count)
        return rows(self, name, place, row, count, *sizes)

    monkeypatch.setattr(merge.Merged, "_rows", spied)
    convert(checkpoint_dir("a56"), "merged", reverse=True, overlay=Merging(lora.adapter_dir("a56", "adapter_base")))
    assert max(largest) == merge.ROWS


def test_command_leaves_a_whole_directory(checkpoint_dir, capsys):
    assert main(["convert-weight", "--reverse", "--input_path", str(checkpoint_dir("a56")), "--adapter",
                 str(lora.adapter_dir("a56")), "--output_path", "merged"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "merged   8 modules" in said
    assert f"0.2348  {C_ATTN}" in said
    names = {file.name for file in Path("merged").iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken", "README.md"}
    sizes = json.loads(Path("merged/adapter_merge.json").read_text(encoding="utf-8"))
    assert sizes["size_of_change"][C_ATTN] == pytest.approx(0.23481, abs=1e-4)
    assert "rank 8, alpha 16" in Path("merged/README.md").read_text(encoding="utf-8")


def test_an_adapter_that_changes_nothing_is_named(checkpoint_dir, tmp_path, capsys):
    tensors = {k: v * 0 if "lora_B" in k else v for k, v in lora.factors("a56").items()}
    lora.write(tmp_path / "a", tensors)
    assert main(["convert-weight", "--input_path", str(checkpoint_dir("a56")), "--adapter", str(tmp_path / "a"),
                 "--output_path", "out.ckpt"]) == 0  # fmt: skip
    assert "changes nothing" in capsys.readouterr().err


def test_a_wrong_adapter_leaves_nothing(checkpoint_dir, capsys):
    code = main(["convert-weight", "--input_path", str(checkpoint_dir("a56")), "--adapter",
                 str(lora.adapter_dir("b224")), "--output_path", "out"])  # fmt: skip
    assert code == 1
    assert "does not fit the base model" in capsys.readouterr().err
    assert not Path("out").exists()
