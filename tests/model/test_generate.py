"""Greedy answers through the host's generate() against the original's."""

import numpy as np
import pytest

from mindformers_qwenvl.generation.inputs import bucket
from tests.support.golden import SETS, golden_set
from tests.support.network_inputs import named_images, only, prompt


def greedy(network, golden, name):
    batch = prompt(golden, name)
    given = {}
    if named_images(golden, golden.arrays[f"ids.{name}"]):
        given = {"images": batch.images, "image_context_pos": batch.positions}
    length = len(golden.arrays[f"greedy.{name}"])
    answer = network.generate(batch.input_ids, max_new_tokens=length, do_sample=False, eos_token_id=[-1], **given)[0]
    return answer[batch.input_ids.shape[1] :]


DEFAULT = {("a56", "text"), ("c448", "one_image")}


@pytest.mark.parametrize(
    ("golden", "name"),
    [
        pytest.param(golden, name, marks=[] if (golden, name) in DEFAULT else pytest.mark.slow)
        for golden in SETS
        for name in ("text", "one_image", "two_images", "multi_turn")
    ],
    indirect=["golden"],
)
def test_greedy_ids_with_cache(golden, cached_network, name):
    answer = greedy(cached_network, golden, name)
    np.testing.assert_array_equal(answer, golden.arrays[f"greedy.{name}"])


@pytest.mark.parametrize(
    ("golden", "name"),
    [pytest.param("a56", "two_images", marks=pytest.mark.slow), ("b224", "text")],
    indirect=["golden"],
)
def test_greedy_ids_without_cache(golden, network, name):
    answer = greedy(network, golden, name)
    np.testing.assert_array_equal(answer, golden.arrays[f"greedy.{name}"])


def test_buckets():
    assert [bucket(length, 8192) for length in (1, 32, 33, 291, 512, 513, 8192)] == [32, 32, 64, 320, 512, 576, 8192]
    assert bucket(2040, 2044) == 2044
    lengths = np.arange(1, 8193)
    columns = np.array([bucket(int(length), 8192) for length in lengths])
    assert (columns >= lengths).all()
    assert (columns[lengths > 256] <= lengths[lengths > 256] * 1.125 + 1).all()
    assert len(set(columns)) < 50


@pytest.mark.slow
def test_inputs_without_a_shape(checkpoint_dir):
    """`is_dynamic: True`, as in the YAML of the published model."""
    from mindformers_qwenvl import QwenVL

    golden = golden_set("a56")
    network = QwenVL.from_pretrained(str(checkpoint_dir("a56")), use_past=True, is_dynamic=True)
    batch = prompt(golden, "text")
    answer = network.generate(batch.input_ids, max_new_tokens=6, do_sample=False)[0]
    np.testing.assert_array_equal(answer[-6:], golden.arrays["greedy.text"][:6])


@pytest.mark.slow
@only("a56")
def test_inputs_for_the_layout_are_those_of_a_prompt(cached_network, network):
    """The trainer needs them to learn how several cards share the weights."""
    for built in (cached_network, network):
        inputs = built.prepare_inputs_for_predict_layout(np.ones((2, 40)))
        assert built(*inputs).shape == (2, 1024)
        assert len(inputs) == (8 if built.use_past else 6)


@pytest.fixture(scope="module")
def language(network):
    """`language(**settings)`: the language model of the set alone."""
    import mindspore as ms

    from mindformers_qwenvl import QwenConfig, QwenForCausalLM

    prefix = "llm_model."
    weights = {
        parameter.name.removeprefix(prefix): ms.Parameter(parameter.value(), name=parameter.name.removeprefix(prefix))
        for parameter in network.get_parameters()
        if parameter.name.startswith(prefix)
    }

    def factory(**settings):
        settings = {**network.config.llm.to_dict(), **settings}
        built = QwenForCausalLM(QwenConfig(**{key: value for key, value in settings.items() if key != "model_type"}))
        missing, unexpected = ms.load_param_into_net(built, weights)
        assert not unexpected and all(".cache." in name for name in missing)
        return built.set_train(False)

    return factory


@pytest.mark.slow
@only("a56")
def test_the_language_model_alone_without_cache(golden, language, network):
    import mindspore as ms

    ids = prompt(golden, "text").input_ids
    built = language()
    expected = network(ms.Tensor(ids), None, None).asnumpy()
    np.testing.assert_allclose(built(ms.Tensor(ids)).asnumpy(), expected, atol=1e-6)
    answer = built.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=[-1])[0]
    np.testing.assert_array_equal(answer[-12:], golden.arrays["greedy.text"][:12])


@pytest.mark.slow
@only("a56")
def test_the_language_model_alone_with_cache(golden, language, tmp_path):
    """A batch of two lengths, sampling, and what `save_pretrained` writes."""
    from mindformers import AutoModel, AutoModelForCausalLM

    from mindformers_qwenvl import QwenForCausalLM

    ids = golden.arrays["ids.text"]
    batch = np.full((2, len(ids)), golden.meta["special_ids"]["eod_id"], np.int32)
    batch[0], batch[1, :9] = ids, ids[:9]
    built = language(use_past=True)
    rows = built.generate(batch, max_new_tokens=30, do_sample=False, eos_token_id=[-1])
    np.testing.assert_array_equal(rows[0][-30:], golden.arrays["greedy.text"])
    assert rows[1][:9].tolist() == ids[:9].tolist() and len(rows[1]) == 39

    drawn = [built.generate(batch, max_new_tokens=8, do_sample=True, top_p=0.9, seed=seed)[0] for seed in (3, 4, 3)]
    assert drawn[0].tolist() == drawn[2].tolist() != drawn[1].tolist()

    built.save_pretrained(str(tmp_path / "saved"), save_json=True)
    for auto in (AutoModel, AutoModelForCausalLM):
        again = auto.from_pretrained(str(tmp_path / "saved"))
        assert type(again) is QwenForCausalLM and again.use_past
    (answer,) = again.generate(ids[None], max_new_tokens=8, do_sample=False, eos_token_id=[-1])
    np.testing.assert_array_equal(answer[-8:], golden.arrays["greedy.text"][:8])
