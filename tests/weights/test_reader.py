"""Reading checkpoints: safetensors with and without index, PyTorch files, and the faults of each."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.convert import load_original
from mindformers_qwenvl.weights.dtypes import cast
from mindformers_qwenvl.weights.names import to_ours
from mindformers_qwenvl.weights.reader import SAFETENSORS_INDEX, TORCH_INDEX, Checkpoint
from tests.golden import SETS, draw_checkpoint


def copy_of(folder: Path) -> Path:
    return Path(shutil.copytree(folder, Path.cwd() / "hf"))


def read_all(path: Path) -> dict[str, np.ndarray]:
    with Checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name).reshape(info.shape) for name, info in checkpoint.tensors.items()}


@pytest.mark.parametrize("name", SETS)
def test_reads_every_tensor(name, checkpoint_dir):
    drawn = draw_checkpoint(name)
    read = read_all(checkpoint_dir(name))
    assert read.keys() == drawn.keys()
    assert all(np.array_equal(read[key], drawn[key]) for key in drawn)


def test_ranges(checkpoint_dir):
    with Checkpoint(checkpoint_dir("a56")) as checkpoint:
        whole = checkpoint.read("transformer.ln_f.weight")
        assert np.array_equal(checkpoint.read("transformer.ln_f.weight", 10, 20), whole[10:20])


def test_shards_without_index(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    (folder / SAFETENSORS_INDEX).unlink()
    assert read_all(folder).keys() == draw_checkpoint("a56").keys()


def test_the_index_chooses_the_shards(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "old.safetensors")
    assert len(read_all(folder)) == 61
    (folder / SAFETENSORS_INDEX).unlink()
    with pytest.raises(ValueError, match=r"old\.safetensors holds .* again"):
        Checkpoint(folder)


def test_a_missing_shard_is_named(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors"):
        Checkpoint(folder)


def test_an_index_that_lists_more_than_the_shards_hold(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    index = json.loads((folder / SAFETENSORS_INDEX).read_text())
    index["weight_map"]["transformer.h.2.ln_1.weight"] = "model-00001-of-00003.safetensors"
    (folder / SAFETENSORS_INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"do not hold: transformer\.h\.2\.ln_1\.weight"):
        Checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {"a": "../secret.safetensors"}}'])
def test_a_broken_index(content, tmp_path):
    (tmp_path / SAFETENSORS_INDEX).write_text(content)
    with pytest.raises(ValueError, match="is no weight index"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_a_cut_file_is_named(cut, checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shard = folder / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model-00003-of-00003\.safetensors is (no safetensors|damaged)"):
        Checkpoint(folder)


def test_a_header_that_lies_about_a_shape(tmp_path):
    save_file({"a": np.zeros(8, np.float32)}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data.replace(b'"shape":[8]', b'"shape":[9]'))
    with pytest.raises(ValueError, match="a holds 32 bytes, its shape needs 36"):
        Checkpoint(tmp_path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Checkpoint(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"expected \.safetensors"):
        Checkpoint(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", SETS)
def test_load_original(name, checkpoint_dir):
    drawn = draw_checkpoint(name)
    loaded = dict(load_original(checkpoint_dir(name)))
    assert len(loaded) == sum(len(to_ours(key)) for key in drawn)
    for key, value in drawn.items():
        parts = [loaded.pop(part) for part in to_ours(key)]
        assert all(part.dtype == np.float32 for part in parts)
        assert np.array_equal(np.concatenate(parts), value)
    assert not loaded


def test_load_original_in_half_precision(checkpoint_dir):
    half = dict(load_original(checkpoint_dir("a56"), dtype="fp16"))
    full = dict(load_original(checkpoint_dir("a56")))
    assert all(np.array_equal(half[name], full[name].astype(np.float16)) for name in full)
    with pytest.raises(ValueError, match="numpy has no bfloat16"):
        load_original(checkpoint_dir("a56"), dtype="bf16")


def test_load_original_refuses_before_the_first_array(checkpoint_dir):
    folder = copy_of(checkpoint_dir("a56"))
    shard = folder / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors["transformer.h.9.ln_1.weight"] = tensors.pop("transformer.h.0.ln_1.weight")
    save_file(tensors, shard)
    (folder / SAFETENSORS_INDEX).unlink()
    with pytest.raises(ValueError, match="does not fit its config") as caught:
        load_original(folder)
    assert "1 missing: transformer.h.0.ln_1.weight" in str(caught.value)
    assert "1 not of this model: transformer.h.9.ln_1.weight" in str(caught.value)


def test_pytorch_shards_without_pytorch(checkpoint_dir, monkeypatch):
    folder = copy_of(checkpoint_dir("a56"))
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'mindformers-qwenvl\[torch\]'"):
        load_original(folder)


class Boom:
    """Unpickled by Python, this would create a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


class TestPyTorch:
    """With PyTorch installed (extra `[torch]`)."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra [torch])")

    def shards(self, source: Path, dtype: str, **options) -> Path:
        """The original folder `source` as two .bin shards with an index, in `dtype`."""
        folder = copy_of(source)
        tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= {name: self.torch.from_numpy(array) for name, array in load_file(file).items()}
            file.unlink()
        (folder / SAFETENSORS_INDEX).unlink()
        tensors = {name: tensor.to(getattr(self.torch, dtype)) for name, tensor in tensors.items()}
        names = sorted(tensors)
        weight_map = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file_name = f"pytorch_model-0000{number}-of-00002.bin"
            self.torch.save({name: tensors[name] for name in part}, folder / file_name, **options)
            weight_map |= dict.fromkeys(part, file_name)
        (folder / TORCH_INDEX).write_text(json.dumps({"weight_map": weight_map}))
        self.tensors = tensors
        return folder

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_shards(self, checkpoint_dir, dtype):
        folder = self.shards(checkpoint_dir("b224"), dtype)
        loaded = dict(load_original(folder))
        for name, tensor in self.tensors.items():
            value = np.concatenate([loaded.pop(part) for part in to_ours(name)])
            assert np.array_equal(value, tensor.float().numpy())
        assert not loaded

    def test_casts_round_as_pytorch_does(self, checkpoint_dir):
        with Checkpoint(self.shards(checkpoint_dir("a56"), "bfloat16")) as checkpoint:
            for name, array in draw_checkpoint("a56").items():
                assert np.array_equal(cast(array.reshape(-1), "F32", "BF16")[0], checkpoint.read(name))

    def test_a_file_from_before_zip_archives(self, checkpoint_dir):
        folder = self.shards(checkpoint_dir("a56"), "float32", _use_new_zipfile_serialization=False)
        assert len(read_all(folder)) == 61

    def test_a_transposed_tensor(self, tmp_path):
        tensor = self.torch.arange(12.0).reshape(3, 4).T
        self.torch.save({"a": tensor}, tmp_path / "a.pt")
        assert np.array_equal(read_all(tmp_path)["a"], tensor.numpy())

    def test_a_trainers_other_files_are_no_weights(self, tmp_path):
        self.torch.save({"a": self.torch.ones(2)}, tmp_path / "pytorch_model.bin")
        self.torch.save({"lr": 1.0}, tmp_path / "training_args.bin")
        assert read_all(tmp_path).keys() == {"a"}

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_pickle_is_never_executed(self, tmp_path, zipped):
        file = tmp_path / "pytorch_model.bin"
        self.torch.save({"a": Boom()}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin was refused"):
            Checkpoint(tmp_path)
        file.write_bytes(pickle.dumps({"a": Boom()}))
        with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
            Checkpoint(tmp_path)
        assert not Path("executed").exists()

    @pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
    def test_a_broken_file_is_named(self, tmp_path, content):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
            Checkpoint(tmp_path)

    def test_not_a_state_dict(self, tmp_path):
        self.torch.save([self.torch.ones(2)], tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="expected a dict of tensors"):
            Checkpoint(tmp_path)
