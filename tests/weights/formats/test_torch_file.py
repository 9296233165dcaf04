"""Reading PyTorch's files, with PyTorch and without it, damaged and malicious ones too."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mindformers_qwenvl.weights.convert.dtypes import STORAGE, cast
from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX, TORCH_INDEX, Checkpoint
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.names import to_ours
from tests.support.checkpoints import copy_of, read_all
from tests.support.golden import draw_checkpoint
from tests.support.torch_files import TorchTensor, state_pickle, write_torch


class TestWithoutPyTorch:
    """Files as PyTorch writes them, and worse; PyTorch is not there."""

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_shards(self, checkpoint_dir, dtype):
        folder = copy_of(checkpoint_dir("b224"))
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        drawn = draw_checkpoint("b224")
        stored = {
            name: TorchTensor(dtype, value.shape, cast(value.ravel(), "F32", dtype)[0]) for name, value in drawn.items()
        }
        names = sorted(stored)
        for number, part in enumerate((names[::2], names[1::2])):
            write_torch(folder / f"pytorch_model-{number}.bin", {name: stored[name] for name in part})
        with Checkpoint(folder) as checkpoint:
            assert checkpoint.tensors.keys() == drawn.keys()
            for name, (_, shape, numbers) in stored.items():
                assert checkpoint.tensors[name].shape == shape
                assert checkpoint.read(name).tobytes() == numbers.tobytes()
                assert checkpoint.read(name, 1, 3).tobytes() == numbers[1:3].tobytes()
        assert dict(load_original(folder)).keys() == dict(load_original(checkpoint_dir("b224"))).keys()

    @pytest.mark.parametrize(
        ("described", "reason"),
        [
            (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "asks for posix.system"),
            (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "asks for builtins.eval"),
            (b"\x80\x02ctorch\nsave\n.", "asks for torch.save"),
            (b"\x80\x02ctorch._utils\n__builtins__\n.", "asks for torch._utils.__builtins__"),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
            (b"(S'true'\nios\nsystem\n.", "instruction STRING"),
            (b"\x80\x02}(X\x01\x00\x00\x00aios\nsystem\n.", "instruction INST"),
            (b"\x80\x02\x82\x01.", "instruction EXT1"),
            (b"\x80\x02)r\xff\xff\xff\x7f.", "counts more values than it has bytes"),
            (b"\x80\x02]X\x01\x00\x00\x00aa.", "expected a dict of tensors"),
            (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "expected a dict of tensors"),
            (b"\x80\x02X\x01\x00\x00\x00aQ.", "refers to something that is not a storage"),
            (b"\x80\x02}", "not a PyTorch checkpoint, or is damaged"),
        ],
    )
    def test_what_is_no_dict_of_tensors_is_refused(self, tmp_path, described, reason):
        write_torch(tmp_path / "pytorch_model.bin", {}, described)
        with pytest.raises(ValueError, match=rf"pytorch_model\.bin .*{re.escape(reason)}"):
            Checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("claimed", "reason"),
        [
            (TorchTensor("F32", (9,)), "storage 0 has 32 bytes, not as many as its tensors say"),
            (TorchTensor("F16", (8,)), "storage 0 has 32 bytes"),
            (TorchTensor("F32", (2, 2)), "storage 0 has 32 bytes"),
        ],
    )
    def test_a_pickle_that_lies_about_the_numbers(self, tmp_path, claimed, reason):
        held = TorchTensor("F32", (8,), np.zeros(8, np.float32))
        write_torch(tmp_path / "a.bin", {"a": held}, state_pickle({"a": claimed}))
        with pytest.raises(ValueError, match=reason):
            Checkpoint(tmp_path)

    def test_a_tensor_beyond_its_storage(self, tmp_path):
        held = TorchTensor("F32", (8,), np.zeros(8, np.float32))
        beyond = state_pickle({"a": held}).replace(b"tQJ\x00\x00\x00\x00", b"tQJ\x01\x00\x00\x00")
        write_torch(tmp_path / "a.bin", {"a": held}, beyond)
        with pytest.raises(ValueError, match="reaches beyond its numbers"):
            Checkpoint(tmp_path)

    def test_a_compressed_archive(self, tmp_path):
        held = {"a": TorchTensor("F32", (8,), np.zeros(8, np.float32))}
        with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", state_pickle(held))
            archive.writestr("x/data/0", bytes(32))
        with pytest.raises(ValueError, match="is compressed or encrypted"):
            Checkpoint(tmp_path)

    def test_a_member_that_unpacks_to_much_is_not_read(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", state_pickle({}))
            archive.writestr("x/byteorder", b"little" + bytes(1_000_000))
        with pytest.raises(ValueError, match=r"a\.bin was refused.*a byteorder of 1,000,006 bytes"):
            Checkpoint(tmp_path)

    @given(st.data())
    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_damage_is_named_or_harmless(self, tmp_path, data):
        """Any bytes of the file changed or cut: an error that names it, or tensors that can be read."""
        file = tmp_path / "a.bin"
        write_torch(file, {"a": TorchTensor("F32", (2, 3), np.arange(6, dtype=np.float32))})
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
        try:
            with Checkpoint(tmp_path) as checkpoint:
                for name, info in checkpoint.tensors.items():
                    if info.dtype in STORAGE:
                        checkpoint.read(name)
        except ValueError as error:
            assert "a.bin" in str(error)  # both outcomes are right


class Boom:
    """Unpickled by Python, this would create a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


class TestPyTorch:
    """With PyTorch installed: what it writes is what is read here without it."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")

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

    def test_a_file_from_before_zip_archives_is_refused(self, checkpoint_dir):
        folder = self.shards(checkpoint_dir("a56"), "float32", _use_new_zipfile_serialization=False)
        with pytest.raises(ValueError, match=r"00001-of-00002\.bin .*not a zip archive.*saved again with torch\.save"):
            Checkpoint(folder)

    def test_it_reads_what_the_tests_write(self, tmp_path):
        numbers = np.arange(6, dtype=np.float32)
        write_torch(tmp_path / "a.bin", {"a": TorchTensor("F32", (2, 3), numbers), "b": TorchTensor("BF16", (4,))})
        loaded = self.torch.load(tmp_path / "a.bin", weights_only=True)
        assert np.array_equal(loaded["a"].numpy(), numbers.reshape(2, 3))
        assert loaded["b"].dtype == self.torch.bfloat16
        assert not loaded["b"].any()

    def test_shared_storage_and_parameters(self, tmp_path):
        whole = self.torch.arange(12.0)
        state = {
            "a": whole[2:6].reshape(2, 2),
            "b": self.torch.nn.Parameter(whole[6:]),
            "c": whole[::3],
            "d": whole[:0],
        }
        self.torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
        read = read_all(tmp_path)
        assert {name: array.tolist() for name, array in read.items()} == {n: t.tolist() for n, t in state.items()}

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
        with pytest.raises(ValueError, match=rf"pytorch_model\.bin {'was refused' if zipped else 'is not a PyTorch'}"):
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
