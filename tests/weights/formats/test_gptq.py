"""GPTQ checkpoints: the golden one, its relatives, and what is refused by name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.adapters.convert import Merging
from mindformers_qwenvl.weights.convert import transfer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import STORAGE, cast
from mindformers_qwenvl.weights.formats.gptq import GptqCheckpoint
from mindformers_qwenvl.weights.hooks import refuse_incomplete
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.names import to_ours
from mindformers_qwenvl.weights.opening import opened
from tests.support import lora
from tests.support.golden import GOLDEN, draw_checkpoint, golden_set

C_PROJ = "transformer.h.0.mlp.c_proj"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_int4", GOLDEN / "make_int4.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def int4(maker, checkpoint_dir, tmp_path) -> Path:
    maker.main(checkpoint_dir("a56"), tmp_path / "int4")
    return tmp_path / "int4"


def stands_for(maker) -> dict[str, np.ndarray]:
    """Name -> float32 weight that the a56 Int4 directory stands for."""
    found = {}
    for name, value in draw_checkpoint("a56").items():
        stem = name.removesuffix(".weight")
        quantised = ".h." in name and stem.endswith(maker.MATRICES) and name.endswith("weight")
        found[name] = maker.quantise(value)[1] if quantised else value.astype(np.float16).astype(np.float32)
    return found


def test_golden_values(int4, maker):
    report = convert(int4, "out", verify=True)
    assert len(report.dropped) == 8  # biases of zeros, of all matrices but c_attn
    written = load_file("out/model.safetensors")
    for name, value in stands_for(maker).items():
        assert np.array_equal(np.concatenate([written[part] for part in to_ours(name)]).astype(np.float32), value), name
    weight = written["llm_model.transformer.layers.0.feed_forward.w2.weight"]
    golden = np.load(GOLDEN / "int4" / "a56.npz")
    assert np.array_equal(weight[::16, ::8], golden["h0.mlp.c_proj"])
    sums = [weight.sum(dtype=np.float64), np.abs(weight).sum(dtype=np.float64)]
    np.testing.assert_allclose(sums, golden["h0.mlp.c_proj.sum"], rtol=1e-6)
    assert "quantization_config" not in json.loads(Path("out/config.json").read_text(encoding="utf-8"))


def test_loaded_as_it_is(int4, maker):
    arrays = dict(load_original(int4))
    for name, value in stands_for(maker).items():
        assert np.array_equal(np.concatenate([arrays[part] for part in to_ours(name)]), value)


def test_bytes_are_the_same_every_time(int4, monkeypatch):
    convert(int4, "one", reverse=True, dtype="fp16")
    monkeypatch.setattr(transfer, "BLOCK", 777)
    convert(int4, "two", reverse=True, dtype="fp16", verify=True)
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()


def test_an_adapter_merges_into_it(int4, maker):
    merging = Merging(lora.adapter_dir("a56"))
    convert(int4, "out", reverse=True, overlay=merging, verify=True)
    written, tensors = load_file("out/model.safetensors"), lora.factors("a56")
    for change in merging.changes():
        a, b = (tensors[f"{lora.PREFIX}{change.module}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
        wanted = stands_for(maker)[f"{change.module}.weight"] + 2 * b @ a
        np.testing.assert_allclose(written[f"{change.module}.weight"], wanted, atol=1e-6)
    assert len(merging.changes()) == 8


def bits_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers [n, m] packed along the first axis into words of 32 bits, from the lowest on: bit by bit."""
    stream = (numbers[:, None, :] >> np.arange(bits)[None, :, None] & 1).reshape(-1, numbers.shape[1])
    words = stream.reshape(-1, 32, numbers.shape[1]).astype(np.uint64)
    return (words << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1).astype(np.uint32).view(np.int32)


def quantised(weight: np.ndarray, bits: int, group: int, sym: bool, act: bool, plus_one: bool = True):
    """Tensors of a matrix at random numbers, and the weight that AutoGPTQ's formula gives, element by element."""
    rng = np.random.default_rng(bits)
    rows, columns = weight.shape
    size = columns if group == -1 else group
    order = np.arange(columns) // size
    g_idx = rng.permutation(order) if act else order
    groups, most = int(order.max()) + 1, (1 << bits) - 1
    q = rng.integers(0, most + 1, (columns, rows))
    zeros = np.full((groups, rows), 1 << (bits - 1)) if sym else rng.integers(0, most + 1, (groups, rows))
    scales = rng.uniform(0.001, 0.01, (groups, rows)).astype(np.float16)
    stored = (zeros - 1 & most) if plus_one else zeros
    tensors = {
        "qweight": bits_of(q, bits),
        "qzeros": np.ascontiguousarray(bits_of(stored.T, bits).T),
        "scales": scales,
        "g_idx": g_idx.astype(np.int32),
    }
    return tensors, ((q - zeros[g_idx]) * scales[g_idx].astype(np.float64)).T


RELATIVES = [
    pytest.param(
        bits, group, sym, act, id=f"{bits} bits, group {group}{'' if sym else ', asymmetric'}{', act' if act else ''}"
    )
    for bits in (2, 3, 4, 8)
    for group, sym, act in (
        (128, True, False),
        (-1, True, False),
        (32, False, False),
        (64, False, True),
        (128, True, True),
    )
]


def other(folder: Path, int4: Path, settings: dict, change) -> Path:
    """A copy of the Int4 directory in one file, with `settings`; `change(tensors)` changes the tensors in place."""
    folder.mkdir()
    tensors = {}
    for shard in sorted(int4.glob("*.safetensors")):
        tensors |= load_file(shard)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(golden_set("a56").config)
    if settings:
        config["quantization_config"] = {"quant_method": "gptq", **settings}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def all_matrices(maker, *args, **kwargs):
    """A change that quantises every matrix in another way; `wanted` is what they then stand for."""
    wanted = {}

    def change(tensors):
        for name, value in draw_checkpoint("a56").items():
            stem = name.removesuffix(".weight")
            if ".h." in name and stem.endswith(maker.MATRICES) and name.endswith("weight"):
                parts, wanted[name] = quantised(value, *args, **kwargs)
                tensors |= {f"{stem}.{kind}": part for kind, part in parts.items()}

    return change, wanted


@pytest.mark.parametrize(("bits", "group", "sym", "act"), RELATIVES)
def test_relatives(int4, maker, tmp_path, bits, group, sym, act):
    change, wanted = all_matrices(maker, bits, group, sym, act)
    settings = {"bits": bits, "group_size": group, "sym": sym, "desc_act": act}
    folder = other(tmp_path / "other", int4, settings, change)
    convert(folder, "out", reverse=True, verify=True)
    written = load_file("out/model.safetensors")
    for name, value in wanted.items():
        np.testing.assert_allclose(written[name], value, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("code", ["F16", "BF16"])
@pytest.mark.parametrize(("group", "sym"), [(32, True), (64, False), (-1, False)])
def test_straight_to_16_bits(int4, maker, tmp_path, group, sym, code):
    """By the table, the numbers are those of the cast, wherever a block begins and ends."""
    change, wanted = all_matrices(maker, 4, group, sym, False)
    folder = other(tmp_path / "other", int4, {"bits": 4, "group_size": group, "sym": sym}, change)
    rng, by_table = np.random.default_rng(0), 0
    with opened(folder, golden_set("a56").config) as checkpoint:
        for name in wanted:
            whole = cast(checkpoint.read(name), "F32", code)[0]
            for start, stop in [(0, whole.size), *np.sort(rng.integers(0, whole.size, (4, 2)), axis=1)]:
                found = np.zeros(stop - start, STORAGE[code])
                if checkpoint.read_as(name, int(start), code, found):
                    by_table += 1
                    assert found.tobytes() == whole[start:stop].tobytes(), (name, start, stop)
    assert by_table >= 5 * sum(1 for name in wanted if "w1" in name or "w2" in name)


def test_what_the_table_cannot_say_is_counted(int4, maker, tmp_path):
    def change(tensors):
        tensors[f"{C_PROJ}.scales"][0, :2] = np.inf, 60_000
        tensors["transformer.h.0.mlp.w1.scales"][0, :2] = np.inf, 60_000

    report = convert(other(tmp_path / "other", int4, {"bits": 4}, change), "out", reverse=True, dtype="fp16")
    for stem in (C_PROJ, "transformer.h.0.mlp.w1"):
        assert report.not_finite[f"{stem}.weight"] > 50
        assert report.overflow[f"{stem}.weight"] > 10


def test_second_form_of_zeros_and_no_settings_at_all(int4, maker, tmp_path):
    change, wanted = all_matrices(maker, 4, 128, False, False, plus_one=False)
    folder = other(tmp_path / "v2", int4, {"bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"}, change)
    convert(folder, "v2_out", reverse=True)
    np.testing.assert_allclose(
        load_file("v2_out/model.safetensors")[f"{C_PROJ}.weight"], wanted[f"{C_PROJ}.weight"], rtol=1e-6
    )

    def without_groups(tensors):
        for name in [name for name in tensors if name.endswith("g_idx")]:
            del tensors[name]

    plain = other(tmp_path / "plain", int4, {}, without_groups)
    convert(plain, "plain_out", reverse=True)
    assert np.array_equal(
        load_file("plain_out/model.safetensors")[f"{C_PROJ}.weight"], stands_for(maker)[f"{C_PROJ}.weight"]
    )


@pytest.mark.parametrize(
    ("settings", "change", "named"),
    [
        ({}, {f"{C_PROJ}.bias": np.ones(256, np.float16)}, "not all zeros"),
        ({}, {f"{C_PROJ}.scales": None}, "scales"),
        ({}, {f"{C_PROJ}.scales": np.ones((3, 255), np.float16)}, "[3, 255]"),
        ({}, {f"{C_PROJ}.qweight": np.ones((44, 200), np.int32)}, "[44, 200]"),
        ({}, {f"{C_PROJ}.qzeros": np.ones((3, 32), np.int64)}, "I64"),
        ({}, {f"{C_PROJ}.g_idx": np.ones(9, np.int32)}, "[9]"),
        ({"bits": 8}, {}, "at 8 bits"),
        ({"bits": 5}, {}, "5 bits"),
        ({"quant_method": "awq"}, {}, "awq"),
        ({"quant_method": "bitsandbytes"}, {}, "bitsandbytes"),
        ({}, {f"{C_PROJ}.weight.absmax": np.ones(3, np.float32)}, "bitsandbytes"),
        ({}, {f"{C_PROJ}.weight_scale_inv": np.ones(3, np.float32)}, "fp8"),
        ({}, {"transformer.h.7.mlp.w1.qweight": np.ones((32, 352), np.int32)}, "transformer.h.7.mlp.w1"),
    ],
)
def test_refused_by_name(int4, tmp_path, settings, change, named):
    def apply(tensors):
        for name, value in change.items():
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value

    folder = other(tmp_path / "other", int4, {"bits": 4, "group_size": 128, **settings}, apply)
    with pytest.raises(ValueError) as refused:
        convert(folder, "out")
    assert named in str(refused.value)
    assert not Path("out").exists()


def test_a_group_that_is_not_there(int4, tmp_path):
    def beyond(tensors):
        tensors[f"{C_PROJ}.g_idx"] = np.full(352, 99, np.int32)

    folder = other(tmp_path / "other", int4, {"bits": 4}, beyond)
    with pytest.raises(ValueError, match="g_idx names groups beyond"):
        convert(folder, "out")


def test_one_packed_matrix_at_a_time(int4):
    with opened(int4, golden_set("a56").config) as checkpoint:
        assert isinstance(checkpoint, GptqCheckpoint)
        for name in checkpoint.tensors:
            checkpoint.read(name)
            assert len(checkpoint._packed) <= 2


def test_load_checkpoint_of_a_yaml_says_what_to_do(int4):
    """MindFormers would load what it knows by name, and train on with random matrices."""
    with pytest.raises(ValueError, match="quantised weights; make plain ones with `mindformers-qwenvl convert-weight"):
        refuse_incomplete(str(int4))
