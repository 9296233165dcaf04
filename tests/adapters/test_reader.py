"""Adapter directories of every tool: names, factors, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.settings import from_pet_config
from mindformers_qwenvl.adapters.writer import factor_tensors, peft_settings, write_adapter
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from tests.support import lora
from tests.support.torch_files import TorchTensor, write_torch

C_ATTN = "transformer.h.0.attn.c_attn"
SHAPES = lora.shapes("a56")


def test_golden():
    tensors = lora.factors("a56")
    with Adapter(lora.adapter_dir("a56"), SHAPES) as adapter:
        assert len(adapter.targets) == 8
        assert not adapter.saved
        assert not adapter.warnings
        assert adapter.idle() == []
        a, b = adapter.factors(C_ATTN)
    assert np.array_equal(a, tensors[f"{lora.PREFIX}{C_ATTN}.lora_A.weight"])
    assert np.array_equal(b, tensors[f"{lora.PREFIX}{C_ATTN}.lora_B.weight"])


def test_modules_to_save():
    tensors = lora.factors("a56", "adapter_base")
    with Adapter(lora.adapter_dir("a56", "adapter_base"), SHAPES) as adapter:
        assert set(adapter.saved) == {"transformer.wte.weight", "lm_head.weight"}
        read = adapter.read_saved("lm_head.weight", 1000, 1200)
    assert np.array_equal(read, tensors[f"{lora.PREFIX}lm_head.weight"].reshape(-1)[1000:1200])


def names(name: str) -> dict[str, str]:
    """The ways in which tools call a tensor of the golden adapter."""
    return {
        "peft": name,
        "default": name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        "bare": name.removeprefix(lora.PREFIX),
        "no weight": name.removesuffix(".weight") if "lora_" in name else name,
        "saved": name if "lora_" in name else name.replace(".weight", ".modules_to_save.default.weight"),
        "saved, no name": name if "lora_" in name else name.replace(".weight", ".modules_to_save.weight"),
    }


@pytest.mark.parametrize("way", list(names("a")))
def test_names_of_other_tools(tmp_path, way):
    tensors = lora.factors("a56", "adapter_base")
    renamed = {names(name)[way]: value for name, value in tensors.items()}
    lora.write(tmp_path / "a", renamed, target_modules="all-linear", modules_to_save=["wte", "lm_head"])
    with Adapter(tmp_path / "a", SHAPES) as adapter:
        assert not adapter.warnings
        assert len(adapter.targets) == 8
        assert set(adapter.saved) == {"transformer.wte.weight", "lm_head.weight"}


def test_bin_is_read_by_the_restricted_reader(tmp_path):
    folder = lora.copy(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    tensors = lora.factors("a56")
    write_torch(folder / "adapter_model.bin", {n: TorchTensor("F32", v.shape, v) for n, v in tensors.items()})
    with Adapter(folder, SHAPES) as adapter:
        assert np.array_equal(adapter.factors(C_ATTN)[1], tensors[f"{lora.PREFIX}{C_ATTN}.lora_B.weight"])
    write_torch(folder / "adapter_model.bin", {}, b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="refused"):
        Adapter(folder, SHAPES)


def test_targets_are_those_of_the_tensors(tmp_path):
    """Never those of target_modules, which other tools fill in their own ways."""
    tensors = {name: value for name, value in lora.factors("a56").items() if ".h.1." in name and "w1" in name}
    lora.write(tmp_path / "a", tensors, target_modules=["c_attn"])
    with Adapter(tmp_path / "a", SHAPES) as adapter:
        assert list(adapter.targets) == ["transformer.h.1.mlp.w1"]


def test_lost_modules_are_a_warning(tmp_path):
    """The original's finetune.py keeps the names with `lora_` only."""
    tensors = lora.factors("a56")
    lora.write(tmp_path / "a", tensors, modules_to_save=["wte", "lm_head"])
    with Adapter(tmp_path / "a", SHAPES) as adapter:
        [warning] = adapter.warnings
    assert "wte, lm_head" in warning
    assert "lost" in warning


def test_idle(tmp_path):
    tensors = lora.factors("a56")
    tensors[f"{lora.PREFIX}{C_ATTN}.lora_B.weight"] *= 0
    lora.write(tmp_path / "a", tensors)
    with Adapter(tmp_path / "a", SHAPES) as adapter:
        assert adapter.idle() == [C_ATTN]


def without(name: str):
    return lambda tensors: tensors.pop(lora.PREFIX + name)


def changed(name: str, value):
    return lambda tensors: tensors.update({lora.PREFIX + name: value})


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (without(f"{C_ATTN}.lora_A.weight"), "its partner lora_A is missing"),
        (without(f"{C_ATTN}.lora_B.weight"), "its partner lora_B is missing"),
        (changed(f"{C_ATTN}.lora_B.weight", np.zeros((768, 4), np.float32)), "[768, 4]"),
        (changed(f"{C_ATTN}.lora_A.weight", np.zeros((8, 255), np.float32)), "[8, 255]"),
        (changed(f"{C_ATTN}.lora_B.bias", np.zeros(768, np.float32)), "lora_B.bias"),
        (changed(f"{C_ATTN}.lora_magnitude_vector", np.ones(768, np.float32)), "use_dora"),
        (
            changed("transformer.h.9.attn.c_attn.lora_A.weight", np.zeros((8, 256), np.float32)),
            "no layer transformer.h.9",
        ),
        (changed("transformer.ln_f.weight", np.zeros(3, np.float32)), "transformer.ln_f.weight"),
        (changed("transformer.ln_g.weight", np.zeros(3, np.float32)), "transformer.ln_g.weight"),
    ],
)
def test_refused_by_name(tmp_path, spoil, named):
    tensors = lora.factors("a56")
    spoil(tensors)
    lora.write(tmp_path / "a", tensors)
    with pytest.raises(ValueError) as refused:
        Adapter(tmp_path / "a", SHAPES)
    assert named in str(refused.value)


def test_several_in_one_file(tmp_path):
    tensors = lora.factors("a56")
    both = {
        n.replace("lora_A", f"lora_A.{w}").replace("lora_B", f"lora_B.{w}"): v for w in "xy" for n, v in tensors.items()
    }
    lora.write(tmp_path / "a", both)
    with pytest.raises(ValueError, match=r"several adapters \(x, y\)"):
        Adapter(tmp_path / "a", SHAPES)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Adapter(tmp_path / "nowhere", SHAPES)
    folder = lora.copy(tmp_path / "many" / "default")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        Adapter(folder.parent, SHAPES)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        Adapter(folder, SHAPES)


def test_rank_and_alpha_patterns(tmp_path):
    tensors = lora.factors("a56")
    for kind, cut in (("lora_A", np.s_[:4]), ("lora_B", np.s_[:, :4])):
        name = f"{lora.PREFIX}{C_ATTN}.{kind}.weight"
        tensors[name] = tensors[name][cut]
    lora.write(tmp_path / "a", tensors, rank_pattern={C_ATTN: 4}, alpha_pattern={"c_attn": 8}, use_rslora=True)
    with Adapter(tmp_path / "a", SHAPES) as adapter:
        assert adapter.targets[C_ATTN].scale == 8 / 2
        assert adapter.targets["transformer.h.0.mlp.w1"].scale == 16 / 8**0.5
        assert adapter.targets[C_ATTN].rank == 4


def test_separate_factors_of_q_k_v_become_one_block_diagonal_adapter(tmp_path):
    """MindFormers' own LoRA has them, for layers of this network; k has none here."""
    rng = np.random.default_rng(0)
    ours = "llm_model.transformer.layers.0.attention"
    factors = {p: (rng.standard_normal((8, 256)), rng.standard_normal((256, 8))) for p in ("wq", "wv")}
    tensors = {}
    for part, pair in factors.items():
        for end, value in zip("ab", pair, strict=True):
            tensors[f"{ours}.{part}.mindpet_delta_lora_{end}"] = value.astype(np.float32)
    lora.write(tmp_path / "old", tensors)
    with Adapter(tmp_path / "old", SHAPES) as adapter:
        assert adapter.targets[C_ATTN].rank == 16
        write_adapter(tmp_path / "new", peft_settings(adapter), factor_tensors(adapter))
    with Adapter(tmp_path / "new", SHAPES) as adapter:
        a, b = adapter.factors(C_ATTN)
        delta = adapter.targets[C_ATTN].scale * (b.astype(np.float64) @ a.astype(np.float64))
    expected = np.zeros((3, 256, 256))
    for place, part in ((0, "wq"), (2, "wv")):
        down, up = (value.astype(np.float32).astype(np.float64) for value in factors[part])
        expected[place] = 16 / 8 * up @ down
    np.testing.assert_allclose(delta, expected.reshape(768, 256), rtol=1e-12, atol=1e-12)
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["rank_pattern"] == {C_ATTN: 16}
    assert settings["alpha_pattern"] == {C_ATTN: 32}


@pytest.mark.parametrize("which", ["adapter", "adapter_base"])
def test_written_as_peft_writes_it(tmp_path, which):
    with Adapter(lora.adapter_dir("a56", which), SHAPES) as adapter:
        write_adapter(tmp_path / "a", adapter.settings, factor_tensors(adapter))
    written = tmp_path / "a"
    assert sorted(file.name for file in written.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    golden = lora.adapter_dir("a56", which)
    # Byte for byte but for the header, whose entries peft has in another order.
    for name, value in lora.factors("a56", which).items():
        with Adapter(written, SHAPES) as adapter:
            assert tuple(adapter.info(name).shape) == value.shape
    assert (written / "adapter_model.safetensors").stat().st_size == (
        golden / "adapter_model.safetensors"
    ).stat().st_size
    assert json.loads((written / "adapter_config.json").read_text()) == json.loads(
        (golden / "adapter_config.json").read_text()
    )


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = lora.copy(tmp_path / "a")
    before = (folder / "adapter_model.safetensors").read_bytes()
    with Adapter(lora.adapter_dir("a56"), SHAPES) as adapter:
        tensors = factor_tensors(adapter)
    broken = {**tensors, "z": (np.zeros(3, np.float32), "no such dtype")}
    with pytest.raises(KeyError):
        write_adapter(folder, adapter.settings, broken)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_untrusted_dtype(tmp_path):
    folder = lora.copy(tmp_path / "a")
    tensors = lora.factors("a56")
    tensors[f"{lora.PREFIX}{C_ATTN}.lora_B.weight"] = np.zeros((768, 8), np.int32)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="I32"):
        Adapter(folder, SHAPES)


def test_the_adapter_of_a_training(tmp_path):
    """Among its weights: this network's names, q, k and v with one A; the optimizer's state is left out."""
    factors, tensors = lora.factors("a56"), {}
    layer = "llm_model.transformer.layers.0.attention"
    whole = factors[f"{lora.PREFIX}{C_ATTN}.lora_B.weight"]
    for part, rows in zip(("wq", "wk", "wv"), np.split(whole, 3), strict=True):
        tensors[f"{layer}.{part}.lora_b.weight"] = rows
    tensors[f"{layer}.lora_a.weight"] = factors[f"{lora.PREFIX}{C_ATTN}.lora_A.weight"]
    tensors |= {f"adam_m.{name}": value for name, value in tensors.items()}
    tensors["llm_model.transformer.ln_f.weight"] = np.zeros(256, np.float32)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "t.safetensors")
    settings = from_pet_config({"lora_rank": 8, "target_modules": ["c_attn"]})
    with Checkpoint(tmp_path / "t.safetensors") as checkpoint:
        adapter = Adapter(tmp_path / "t.safetensors", SHAPES, settings, checkpoint)
        assert list(adapter.targets) == [C_ATTN]
        assert not adapter.saved
        a, b = adapter.factors(C_ATTN)
    assert np.array_equal(a, factors[f"{lora.PREFIX}{C_ATTN}.lora_A.weight"])
    assert np.array_equal(b, whole)
