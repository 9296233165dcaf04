"""Loading an original directory as it is."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.formats.reader import SAFETENSORS_INDEX
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.names import to_ours
from tests.support.checkpoints import copy_of
from tests.support.golden import SETS, draw_checkpoint


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
    with pytest.raises(ValueError, match="does not match its config") as caught:
        load_original(folder)
    assert "1 missing: transformer.h.0.ln_1.weight" in str(caught.value)
    assert "1 not of this model: transformer.h.9.ln_1.weight" in str(caught.value)
