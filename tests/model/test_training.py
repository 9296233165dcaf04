"""Loss, gradients and learning curves against the original's (tests/golden)."""

import mindspore as ms
import numpy as np
import pytest
from mindformers.core.optim import AdamW

from mindformers_qwenvl import QwenVL
from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell
from mindformers_qwenvl.weights.names import to_ours
from tests.support.golden import SETS
from tests.support.network_inputs import only, thinned, training_batch

RELATIVE = 1e-4
TABLE = "vision_encoder.attn_pool.pos_embed"


@pytest.fixture
def trained(checkpoint_dir):
    """A network of its own, in training mode; keywords change its configuration."""

    def build(name: str, **settings) -> QwenVL:
        return QwenVL.from_pretrained(str(checkpoint_dir(name)), **settings).set_train(True)

    return build


class Differentiated:
    """A network in training mode with one compiled graph for loss and gradients of every parameter."""

    def __init__(self, network: QwenVL):
        self.network = network
        self.parameters = network.trainable_params()
        self._graph = ms.value_and_grad(network, None, self.parameters)

    def __call__(self, batch):
        loss, gradients = self._graph(*batch)
        return loss.asnumpy().item(), {p.name: g.asnumpy() for p, g in zip(self.parameters, gradients, strict=True)}


@pytest.fixture(scope="module")
def differentiated(golden, checkpoint_dir):
    return Differentiated(QwenVL.from_pretrained(str(checkpoint_dir(golden.name))).set_train(True))


def joined(gradients, original_name):
    """The gradient of an original tensor, put together from ours."""
    whole = np.concatenate([gradients[name] for name in to_ours(original_name)])
    return whole.reshape(len(whole), -1) if whole.ndim > 1 else whole


@pytest.mark.parametrize(
    ("golden", "batch"),
    [
        pytest.param(name, batch, marks=[] if batch == "batch0" and name == "a56" else pytest.mark.slow)
        for name in SETS
        for batch in ("batch0", "text_only")
    ],
    indirect=["golden"],
)
def test_loss_and_gradients(golden, differentiated, batch):
    expected = golden.meta["train"]
    loss, gradients = differentiated(training_batch(golden, batch))
    assert loss == pytest.approx(expected[f"loss_{batch}"], rel=1e-5)
    norms = expected[f"grad_norms_{batch}"]
    assert {name for key in norms for name in to_ours(key)} == gradients.keys() | {TABLE}
    for name, norm in norms.items():
        if norm is not None:  # the position table has no gradient
            measured = np.linalg.norm(joined(gradients, name).astype(np.float64))
            assert measured == pytest.approx(norm, rel=RELATIVE, abs=1e-12), name
    for key in [key for key in golden.arrays if batch == "batch0" and key.startswith("grad.") and "#" not in key]:
        reference = golden.arrays[key]
        difference = np.abs(thinned(joined(gradients, key[len("grad.") :]), reference) - reference)
        assert difference.max() <= RELATIVE * np.abs(reference).max(), key


@pytest.mark.slow  # stock/test_curves.py learns from them
@pytest.mark.parametrize("batch", [1, 2])
def test_loss_of_the_other_batches(golden, differentiated, batch):
    loss, _ = differentiated(training_batch(golden, f"batch{batch}"))
    assert loss == pytest.approx(golden.meta["train"]["loss_train_mode"][batch], rel=1e-5)


@pytest.mark.slow  # stock/test_curves.py has one with everything that MindFormers adds
@pytest.mark.parametrize("golden", SETS, indirect=True)
@pytest.mark.parametrize("curve", ["curve_full", "curve_fix_vit"])
def test_ten_steps(golden, trained, curve):
    expected = golden.meta["train"][curve]
    network = trained(golden.name, freeze_vision=expected["fix_vit"])
    # The original's finetune.py un-freezes the fixed table together with attn_pool, which was not meant (and moves the
    # losses by up to 2e-4). It is trained here only to be comparable.
    network.vision_encoder.attn_pool.pos_embed.requires_grad = expected["fix_vit"]
    parameters = network.trainable_params()
    # Hugging Face's Trainer decays whatever is not an nn.LayerNorm or a bias; Qwen's RMSNorm is no nn.LayerNorm.
    plain = [p for p in parameters if p.name.endswith((".bias", ".gamma", ".beta"))]
    decayed = [p for p in parameters if not p.name.endswith((".bias", ".gamma", ".beta"))]
    groups = [
        {"params": decayed, "weight_decay": expected["wd"]},
        {"params": plain, "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    optimizer = AdamW(groups, learning_rate=expected["lr"], betas=tuple(expected["betas"]), eps=expected["eps"])
    step = QwenVLTrainOneStepCell(
        network, optimizer, use_clip_grad=True, max_grad_norm=expected["clip"] or 1e9, scale_sense=1.0
    ).set_train(True)
    batches = [training_batch(golden, f"batch{index}") for index in range(3)]
    results = [step(*batches[index % 3]) for index in range(10)]
    losses, norms = ([result[part].asnumpy().item() for result in results] for part in (0, 4))
    np.testing.assert_allclose(losses, expected["losses"], rtol=RELATIVE)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=RELATIVE)


def test_what_is_frozen(trained):
    def trainable(**settings):
        network = trained("a56", **settings)
        return {parameter.name for parameter in network.trainable_params()}

    everything = {parameter.name for parameter in trained("a56").get_parameters()}
    resampler = {name for name in everything if ".attn_pool." in name}
    vision = {name for name in everything if name.startswith("vision_encoder.")}
    assert trainable() == everything - {TABLE}
    assert "vision_encoder.attn_pool.query" in trainable(freeze_vision=True)
    assert trainable(freeze_vision=True) == (everything - vision) | resampler - {TABLE}
    assert trainable(freeze_vision=True, freeze_resampler=True) == everything - vision
    assert trainable(freeze_resampler=True) == everything - resampler
    assert trainable(freeze_llm=True) == vision - {TABLE}


@pytest.mark.slow
@only("a56")
def test_frozen_vision_has_no_gradient_and_recompute_changes_none(golden, trained):
    batch = training_batch(golden, "batch0")
    loss, gradients = Differentiated(trained("a56", freeze_vision=True))(batch)
    parallel = {"recompute": {"recompute": True}}
    again, recomputed = Differentiated(trained("a56", freeze_vision=True, parallel_config=parallel))(batch)
    assert loss == again
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(recomputed[name], gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@only("a56")
def test_batch_without_a_label_gives_zero_not_nan(golden, differentiated):
    batch = list(training_batch(golden, "batch0"))
    batch[3] = ms.Tensor(np.full(batch[3].shape, -100, np.int32))
    loss, gradients = differentiated(batch)
    assert loss == 0
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.slow
@only("a56")
def test_float16_training_loss(golden, trained):
    network = trained("a56", compute_dtype="float16", param_init_type="float32")
    loss, gradients = Differentiated(network)(training_batch(golden, "batch0"))
    assert loss == pytest.approx(golden.meta["train"]["loss_batch0"], rel=2e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
