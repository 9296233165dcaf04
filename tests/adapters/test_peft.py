"""Against peft itself, where it is installed: what it reads of ours, and what we read of its files, merge to the same.

The reference is a model of the original's names and shapes, without its computation; peft wraps its layers, loads and
merges. It needs torch and peft, and neither MindSpore nor MindFormers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers_qwenvl.adapters.convert import Merging
from mindformers_qwenvl.adapters.reader import Adapter
from mindformers_qwenvl.adapters.writer import factor_tensors, peft_settings, write_adapter
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from tests.support import lora
from tests.support.golden import draw_checkpoint

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

SHAPES = lora.shapes("a56")


class Skeleton(torch.nn.Module):
    """Modules of the original's names with its weights."""

    def __init__(self, weights):
        super().__init__()
        for name, value in weights.items():
            if not name.endswith(".weight") or value.ndim != 2:
                continue
            *above, last = name.removesuffix(".weight").split(".")
            place = self
            for part in above:
                if part not in dict(place.named_children()):
                    place.add_module(part, torch.nn.Module())
                place = place.get_submodule(part)
            rows, columns = value.shape
            kind = torch.nn.Embedding if last == "wte" else torch.nn.Linear
            module = kind(rows, columns) if last == "wte" else kind(columns, rows, bias=False)
            module.weight = torch.nn.Parameter(torch.from_numpy(value.copy()))
            place.add_module(last, module)

    def prepare_inputs_for_generation(self, *args, **kwargs):
        raise NotImplementedError


def merged_by_peft(model) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in model.merge_and_unload().state_dict().items()}


def merged_by_us(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    convert(base, "merged", reverse=True, overlay=Merging(adapter))
    with Checkpoint("merged") as found:
        return {name: found.read(name).reshape(info.shape) for name, info in found.tensors.items()}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert theirs
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-6, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("which", ["adapter", "adapter_base"])
def test_peft_loads_what_we_write(checkpoint_dir, tmp_path, which):
    with Adapter(lora.adapter_dir("a56", which), SHAPES) as adapter:
        write_adapter(tmp_path / "ours", adapter.settings, factor_tensors(adapter))
    model = peft.PeftModel.from_pretrained(Skeleton(draw_checkpoint("a56")), tmp_path / "ours")
    loaded = dict(model.named_parameters())
    key = "base_model.model.transformer.h.0.attn.c_attn.lora_B.default.weight"
    golden = lora.factors("a56", which)["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"]
    assert np.array_equal(loaded[key].detach().numpy(), golden)
    assert_same(merged_by_us(checkpoint_dir("a56"), lora.adapter_dir("a56", which)), merged_by_peft(model))


def test_peft_loads_separate_factors_as_one_adapter(checkpoint_dir, tmp_path):
    rng, tensors = np.random.default_rng(0), {}
    for part in ("wq", "wk", "wv"):
        for end, shape in (("a", (8, 256)), ("b", (256, 8))):
            name = f"llm_model.transformer.layers.1.attention.{part}.mindpet_delta_lora_{end}"
            tensors[name] = rng.normal(0, 0.1, shape).astype(np.float32)
    lora.write(tmp_path / "old", tensors)
    with Adapter(tmp_path / "old", SHAPES) as adapter:
        write_adapter(tmp_path / "new", peft_settings(adapter), factor_tensors(adapter))
    model = peft.PeftModel.from_pretrained(Skeleton(draw_checkpoint("a56")), tmp_path / "new")
    assert_same(merged_by_us(checkpoint_dir("a56"), tmp_path / "old"), merged_by_peft(model))


CONFIGS = {
    "plain": {"target_modules": ["c_attn", "attn.c_proj", "w1", "w2"]},
    "rslora": {"target_modules": ["c_attn", "in_proj", "kv_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["c_attn", "mlp.c_proj", "w1"],
        "rank_pattern": {"h.1.mlp.w1": 3, r".*\.0\.attn\.c_attn": 2},
        "alpha_pattern": {"c_proj": 40},
    },
    "dora": {"target_modules": ["c_attn", "w2"], "use_dora": True},
    "saved": {"target_modules": ["w1"], "modules_to_save": ["wte", "lm_head"]},
    "embedding": {"target_modules": ["wte", "c_attn"]},
    "all": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_we_read_what_peft_writes(checkpoint_dir, tmp_path, name, safe):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **CONFIGS[name])
    model = peft.get_peft_model(Skeleton(draw_checkpoint("a56")), config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    try:
        model.save_pretrained(tmp_path / "theirs", safe_serialization=safe, save_embedding_layers=False)
    except (TypeError, ValueError) as error:  # a newer peft writes no .bin
        pytest.skip(str(error))
    if not safe and not (tmp_path / "theirs/adapter_model.bin").exists():
        pytest.skip(f"peft {peft.__version__} writes no .bin")
    assert_same(merged_by_us(checkpoint_dir("a56"), tmp_path / "theirs"), merged_by_peft(model))
