"""`predict --adapter`, `chat --adapter` and Int4 weights: the answers are those of merged weights."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from mindformers_qwenvl.cli import main
from tests.support import lora
from tests.support.golden import GOLDEN, golden_set

A56 = golden_set("a56")
GREEDY = ["--greedy", "--max-new-tokens", "8"]

pytestmark = pytest.mark.usefixtures("released", "own_logs")


@pytest.fixture(scope="module")
def models(checkpoint_dir, tmp_path_factory):
    """The base, the adapter, and both merged."""
    base, adapter = str(checkpoint_dir("a56")), str(lora.adapter_dir("a56"))
    merged = str(tmp_path_factory.mktemp("merged") / "merged")
    words = ["--input_path", base, "--adapter", adapter, "--output_path", merged]
    assert main(["convert-weight", "--reverse", *words]) == 0
    return base, adapter, merged


@pytest.mark.slow
def test_predict(models, capsys):
    base, adapter, merged = models
    capsys.readouterr()

    def answer(*words):
        assert main(["predict", *words, "--image", str(A56.image(0)), "What is it?", *GREEDY]) == 0
        return capsys.readouterr().out

    with_adapter = answer("--model", base, "--adapter", adapter)
    assert with_adapter == answer("--model", merged)
    assert with_adapter.strip() != A56.greedy_text("one_image", 8)  # that of the base


@pytest.mark.slow
def test_chat(models, capsys, monkeypatch):
    base, adapter, merged = models
    capsys.readouterr()
    said = []
    for words in (["--model", base, "--adapter", adapter], ["--model", merged]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nAgain\n"))
        assert main(["chat", *words, *GREEDY]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_there_is_no_such_adapter(checkpoint_dir, capsys):
    assert main(["predict", "--model", str(checkpoint_dir("a56")), "--adapter", "nowhere", "Hello"]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow  # weights/formats/test_gptq.py has the values
def test_int4(checkpoint_dir, tmp_path):
    """The golden logits of the published layout, through from_pretrained as it is; and with an adapter beside it."""
    from mindformers_qwenvl import QwenVL
    from tests.support.network_inputs import prompt

    made = [sys.executable, str(GOLDEN / "make_int4.py"), str(checkpoint_dir("a56")), str(tmp_path / "int4")]
    subprocess.run(made, check=True)
    golden = np.load(GOLDEN / "int4" / "a56.npz")

    def logits(network, key):
        found = network(*prompt(A56, key).tensors)
        return (found[0] if isinstance(found, tuple) else found).asnumpy()[0]

    network = QwenVL.from_pretrained(str(tmp_path / "int4")).set_train(False)
    for key in lora.PROMPTS:
        found = logits(network, key)
        np.testing.assert_allclose(found[-8:], golden[f"logits.{key}"], atol=5e-5, rtol=0)
        assert np.array_equal(found.argmax(-1), golden[f"argmax.{key}"])
    adapter = str(lora.adapter_dir("a56"))
    words = ["--input_path", str(tmp_path / "int4"), "--adapter", adapter, "--output_path", "merged"]
    assert main(["convert-weight", "--reverse", *words]) == 0
    beside = QwenVL.from_pretrained(str(tmp_path / "int4"), adapter=adapter).set_train(False)
    merged = QwenVL.from_pretrained("merged").set_train(False)
    np.testing.assert_allclose(logits(beside, "text"), logits(merged, "text"), atol=5e-5, rtol=0)
