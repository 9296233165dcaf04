"""What needs MindSpore: .ckpt files, and what stock MindFormers does with the host's hooks and our folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindformers_qwenvl.weights import hooks
from mindformers_qwenvl.weights.convert import writer
from mindformers_qwenvl.weights.convert.convert import convert
from mindformers_qwenvl.weights.convert.dtypes import CODES, cast, widen
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.load import load_original
from tests.support.golden import draw_checkpoint

ms = pytest.importorskip("mindspore")


def values(parameter) -> np.ndarray:
    """A MindSpore parameter as float32, exactly (its own numpy bfloat16 is two bytes of another kind)."""
    array = parameter.asnumpy()
    if array.dtype.itemsize == 2 and array.dtype != np.float16:
        return widen(array.view(np.uint16), "BF16")
    return array.astype(np.float32)


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", ms.float16), ("bf16", ms.bfloat16), ("fp32", ms.float32)])
@pytest.mark.parametrize("output", ["out.ckpt", "out.safetensors"])
def test_mindspore_reads_our_file(dtype, kind, output, checkpoint_dir):
    convert(checkpoint_dir("a56"), output, dtype=dtype, verify=True)
    loaded = ms.load_checkpoint(output, format=Path(output).suffix[1:])
    expected = dict(load_original(checkpoint_dir("a56")))
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert loaded[name].dtype == kind
        assert loaded[name].shape == array.shape
        narrow = cast(array.reshape(-1), "F32", CODES[dtype])[0]
        assert np.array_equal(values(loaded[name]).reshape(-1), widen(narrow, CODES[dtype]))


def test_ckpt_back_to_the_original(checkpoint_dir):
    convert(checkpoint_dir("b224"), "out.ckpt")
    assert sorted(path.name for path in Path.cwd().glob("out*")) == ["out.ckpt"]
    convert("out.ckpt", "back", reverse=True, config=checkpoint_dir("b224"), verify=True)
    with Checkpoint("back") as back:
        drawn = draw_checkpoint("b224")
        assert back.tensors.keys() == drawn.keys()
        assert all(np.array_equal(back.read(name), array.reshape(-1)) for name, array in drawn.items())


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_our_ckpt_is_mindspores_byte_for_byte(dtype, checkpoint_dir):
    convert(checkpoint_dir("a56"), "ours.ckpt", dtype=dtype)
    ms.save_checkpoint([{"name": n, "data": p} for n, p in ms.load_checkpoint("ours.ckpt").items()], "theirs.ckpt")
    assert Path("theirs.ckpt").read_bytes() == Path("ours.ckpt").read_bytes()


def test_mindspores_slices_scalars_and_checksum(monkeypatch):
    from mindspore.train import serialization

    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KiB; 512 MiB otherwise
    arrays = {"a": np.random.default_rng(0).standard_normal((70, 33)).astype(np.float32), "b": np.float32(5)}
    saved = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    ms.save_checkpoint(saved, "a.ckpt", crc_check=True)
    with Checkpoint("a.ckpt") as checkpoint:
        for name, array in arrays.items():
            assert checkpoint.tensors[name].shape == array.shape
            assert np.array_equal(checkpoint.read(name).reshape(array.shape), array)


def test_mindspore_joins_our_slices(checkpoint_dir, monkeypatch):
    monkeypatch.setattr(writer, "SLICE", 1000)
    convert(checkpoint_dir("a56"), "sliced.ckpt")
    loaded = ms.load_checkpoint("sliced.ckpt")
    for name, array in load_original(checkpoint_dir("a56")):
        assert np.array_equal(loaded[name].asnumpy(), array)


def test_a_ckpt_of_a_training(checkpoint_dir):
    convert(checkpoint_dir("a56"), "out.ckpt", dtype="bf16")
    trained = ms.load_checkpoint("out.ckpt")
    ms.save_checkpoint(
        [
            *({"name": name, "data": value} for name, value in trained.items()),
            {"name": "adam_v.llm_model.lm_head.weight", "data": ms.Tensor([1.0])},
        ],
        "trained.ckpt",
        append_dict={"epoch_num": 3, "note": "text"},
    )
    report = convert("trained.ckpt", "back", reverse=True, config=checkpoint_dir("a56"))
    assert sorted(report.dropped) == ["adam_v.llm_model.lm_head.weight", "epoch_num"]
    assert report.dtypes == {"BF16": 61}


def test_names_of_ours_and_of_a_training_are_not_converted():
    for name in ("llm_model.lm_head.weight", "adam_m.vision_encoder.proj", "global_step"):
        assert hooks.convert_name(name) == name
    assert hooks.convert_name("transformer.h.0.attn.c_attn.weight").endswith("layers.0.attention.wq.weight")


def test_hooks_convert_numpy(checkpoint_dir):
    converted = hooks.convert_weight_dict(draw_checkpoint("a56"), model_config=None)
    expected = dict(load_original(checkpoint_dir("a56")))
    assert converted.keys() == expected.keys()
    assert all(np.array_equal(converted[name], array) for name, array in expected.items())
    with pytest.raises(ValueError, match=r"1 tensors do not belong to an original .*: model\.norm\.weight"):
        hooks.convert_weight_dict({"model.norm.weight": np.zeros(1)})


def test_hooks_convert_an_index_and_refuse_a_map_they_cannot_say(checkpoint_dir):
    mapped = hooks.convert_map_dict({"transformer.h.1.attn.c_attn.bias": "a", "lm_head.weight": "b"}, qkv_concat=False)
    assert mapped == {
        **{f"llm_model.transformer.layers.1.attention.{part}.bias": "a" for part in ("wq", "wk", "wv")},
        "llm_model.lm_head.weight": "b",
    }
    shards = sorted(map(str, checkpoint_dir("a56").glob("*.safetensors")))
    with pytest.raises(ValueError, match="convert the checkpoint first"):
        hooks.obtain_name_map(shards)
    convert(checkpoint_dir("a56"), "ours")
    names = hooks.obtain_name_map(["ours/model.safetensors"])
    assert len(names) == 73
    assert all(key == value for key, value in names.items())


class Network(ms.nn.Cell):
    """Parameters of the names and shapes of a network, and the host's hooks: all that its loading looks at."""

    convert_name = staticmethod(hooks.convert_name)
    convert_weight_dict = staticmethod(hooks.convert_weight_dict)
    convert_map_dict = staticmethod(hooks.convert_map_dict)
    obtain_name_map = staticmethod(hooks.obtain_name_map)

    def __init__(self, arrays, dtype):
        super().__init__()
        self.weights = ms.ParameterTuple(
            [ms.Parameter(ms.ops.zeros(array.shape, dtype), name=name) for name, array in arrays.items()]
        )


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("layout", ["original", "ours"])
def test_the_host_loads_a_folder(layout, dtype, checkpoint_dir):
    """The host's own function for `load_checkpoint: FOLDER` with `load_ckpt_format: safetensors`, one process."""
    from mindformers.utils.load_checkpoint_utils import load_safetensors_checkpoint

    expected = dict(load_original(checkpoint_dir("a56")))
    convert(checkpoint_dir("a56"), "ours", dtype=dtype, max_shard_size=2_000_000)
    folder = Path("ours")
    if layout == "original":
        convert("ours", "original", reverse=True)
        folder = Path("original")
    network = Network(expected, ms.float32)
    config = SimpleNamespace(
        use_parallel=False,
        auto_trans_ckpt=False,
        load_ckpt_format="safetensors",
        resume_training=False,
        get=lambda key, default=None: default,
        model=SimpleNamespace(model_config={}),
    )
    files = sorted(map(str, folder.glob("*.safetensors")))
    load_safetensors_checkpoint(config, files, network, None, str(folder), None)
    for parameter in network.get_parameters():
        array = expected[parameter.name]
        rounded = widen(cast(array.reshape(-1), "F32", CODES[dtype])[0], CODES[dtype]).reshape(array.shape)
        assert np.array_equal(parameter.asnumpy(), rounded), parameter.name
