"""PyNative mode, where MindFormers 2.x is heading: forward, loss, gradients and cached generation equal the goldens.

In a process of its own: a process keeps one mode. It is slow there on a CPU, so set a56 stands for the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_qwenvl.weights.names import to_ours
from tests.support.golden import golden_set

pytestmark = pytest.mark.slow  # tests/matrix runs it on every host

PROJECT = Path(__file__).parents[2]
A56 = golden_set("a56")
CODE = """
import json, sys
import mindspore as ms
import numpy as np
from mindformers_qwenvl import QwenVL
from tests.support.golden import golden_set
from tests.support.network_inputs import prompt, training_batch

ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
golden, checkpoint = golden_set("a56"), sys.argv[1]
found = {}
network = QwenVL.from_pretrained(checkpoint).set_train(False)
found["logits"] = network(*prompt(golden, "two_images").tensors).asnumpy()[0, -8:]
for name in ("batch0", "text_only"):
    learning = QwenVL.from_pretrained(checkpoint).set_train(True)
    parameters = learning.trainable_params()
    loss, gradients = ms.value_and_grad(learning, None, parameters)(*training_batch(golden, name))
    found[f"loss.{name}"] = loss.asnumpy()
    found |= {f"{name}.{one.name}": gradient.asnumpy() for one, gradient in zip(parameters, gradients)}
cached = QwenVL.from_pretrained(checkpoint, use_past=True).set_train(False)
for name in ("one_image", "two_images"):
    batch = prompt(golden, name)
    given = {"images": batch.images, "image_context_pos": batch.positions}
    row = cached.generate(batch.input_ids, max_new_tokens=16, do_sample=False, eos_token_id=[-1], **given)[0]
    found[f"greedy.{name}"] = np.asarray(row)[batch.input_ids.shape[1]:][:16]
found["mode"] = np.array(ms.get_context("mode") == ms.PYNATIVE_MODE)
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def found(checkpoint_dir, tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("pynative")
    paths = json.dumps([str(PROJECT)])
    code = f"import sys, json; sys.path[:0] = json.loads({paths!r})\n{CODE}"
    command = [sys.executable, "-c", code, str(checkpoint_dir("a56")), str(folder / "found.npz")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    with np.load(folder / "found.npz") as saved:
        arrays = dict(saved)
    assert arrays["mode"]
    return arrays


def test_logits(found):
    np.testing.assert_allclose(found["logits"], A56.arrays["logits.two_images"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("batch", ["batch0", "text_only"])
def test_loss_and_gradients(found, batch):
    expected = A56.meta["train"]
    assert found[f"loss.{batch}"].item() == pytest.approx(expected[f"loss_{batch}"], rel=1e-5)
    norms = {name: norm for name, norm in expected[f"grad_norms_{batch}"].items() if norm is not None}
    assert len(norms) > 50
    for name, norm in norms.items():
        parts = [found[f"{batch}.{ours}"].astype(np.float64).ravel() for ours in to_ours(name)]
        assert np.linalg.norm(np.concatenate(parts)) == pytest.approx(norm, rel=1e-4, abs=1e-12), name


@pytest.mark.parametrize("name", ["one_image", "two_images"])
def test_greedy_answers_with_a_cache(found, name):
    np.testing.assert_array_equal(found[f"greedy.{name}"], A56.arrays[f"greedy.{name}"][:16])
