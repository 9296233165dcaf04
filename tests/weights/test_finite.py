"""NaN and infinity among weights that are loaded."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mindformers_qwenvl.weights.finite import FiniteCheck
from tests.support.golden import write_checkpoint


def test_they_are_counted_in_each_dtype_and_large_numbers_are_not():
    check = FiniteCheck()
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        array = rng.standard_normal((3, 700_000)).astype(dtype)
        check.look("good", array)
        array[1, 5], array[2, -1], array[0, 0] = np.nan, np.inf, -np.inf
        check.look(f"bad.{np.dtype(dtype).name}", array)
    check.look("large", np.full(1000, 3e38, np.float32))
    check.look("large", np.full(1000, 65504, np.float16))
    check.look("empty", np.zeros(0, np.float32))
    assert (check.numbers, check.names) == (6, ["bad.float32", "bad.float16"])
    assert check.sentence().startswith(
        "6 of the weights are NaN or infinite, in 2 tensors, so answers will be nonsense: bad.float32, bad.float16"
    )
    assert FiniteCheck().sentence() == ""


def test_a_model_says_it_when_it_is_loaded(tmp_path, caplog):
    """From the original's layout and from one of ours, and by `predict`."""
    from mindformers_qwenvl import QwenVL

    folder = write_checkpoint("a56", tmp_path / "nan", shards=1)
    (shard,) = folder.glob("*.safetensors")
    tensors = load_file(shard)
    name = "transformer.h.0.mlp.w1.weight"
    tensors[name][0, :7] = np.nan
    save_file(tensors, shard, metadata={"format": "pt"})
    network = QwenVL.from_pretrained(str(folder))
    assert network.not_finite.startswith("7 of the weights are NaN or infinite, in 1 tensors")
    assert "llm_model.transformer.layers.0.feed_forward.w1.weight" in network.not_finite
    shutil.rmtree(folder)

    network.save_pretrained(str(tmp_path / "ours"), save_json=True)
    assert Path(tmp_path / "ours" / "config.json").is_file()
    with caplog.at_level(logging.WARNING):
        again = QwenVL.from_pretrained(str(tmp_path / "ours"))
    assert again.not_finite == network.not_finite
