"""Keys and arguments that do not exist: an error in every class of ours, with the nearest name. Old ones stay."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from mindformers_qwenvl.checks import UnknownNameError
from mindformers_qwenvl.config.keys import OLD
from tests.support.golden import golden_set

A56 = golden_set("a56")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """config.json and vocabulary of a56, without weights."""
    folder = tmp_path_factory.mktemp("a56")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken"):
        shutil.copy(A56.directory / name, folder)
    return folder


def test_configurations(folder):
    from mindformers import AutoConfig

    from mindformers_qwenvl import QwenConfig, QwenVLConfig, QwenVLVisionConfig

    for call, what in (
        (
            lambda: QwenVLConfig(freeze_visoin=True),
            "QwenVLConfig: unknown key freeze_visoin; did you mean freeze_vision?",
        ),
        (lambda: QwenConfig(seq_lenght=8), r"QwenConfig: .* did you mean seq_length\?"),
        (lambda: QwenVLVisionConfig(imagesize=8), r"QwenVLVisionConfig: .* did you mean image_size\?"),
        (lambda: QwenVLConfig(llm_model={"model_config": {"use_pats": 1}}), r"QwenConfig: .* did you mean use_past\?"),
        (lambda: QwenVLConfig.from_pretrained(str(folder), use_pats=True), r"did you mean use_past\?"),
        (lambda: QwenVLConfig.from_pretrained(str(folder), bf16=True), r'bf16; give compute_dtype="bfloat16"'),
        (lambda: QwenVLConfig(banana=1), "unknown key banana; it takes .*vision_model"),
    ):
        with pytest.raises(UnknownNameError, match=what):
            call()
    with pytest.raises(RuntimeError) as wrapped:  # MindFormers wraps every error of this door
        AutoConfig.from_pretrained(str(folder), use_pats=True)
    assert "did you mean use_past?" in str(wrapped.value.__cause__)
    assert QwenVLConfig.from_pretrained(str(folder), trust_remote_code=True, use_past=True).llm.use_past


def test_keys_of_old_yamls_stay_accepted():
    from mindformers_qwenvl import QwenConfig, QwenVLVisionConfig

    for cls in (QwenConfig, QwenVLVisionConfig):
        cls(**dict.fromkeys(OLD))


def test_a_copy_and_what_is_saved_have_no_unknown_keys():
    from mindformers_qwenvl import QwenVLConfig

    config = QwenVLConfig(use_past=True)
    again = QwenVLConfig(**json.loads(config.to_json_string(use_diff=False)))
    assert again.llm.use_past and QwenVLConfig(vision_model=config.vision, llm_model=config.llm).llm.use_past


def test_networks(folder):
    from mindformers import AutoModel

    from mindformers_qwenvl import QwenVL

    with pytest.raises(UnknownNameError, match="use_pats"):
        QwenVL.from_pretrained(str(folder), use_pats=True)
    with pytest.raises(RuntimeError) as wrapped:
        AutoModel.from_pretrained(str(folder), use_pats=True)
    assert isinstance(wrapped.value.__cause__, UnknownNameError)


def test_what_a_yaml_names():
    import mindspore as ms
    from mindspore import nn

    from mindformers_qwenvl import QwenVLContentTransformTemplate, QwenVLImageProcessor, QwenVLTokenizer
    from mindformers_qwenvl.datasets.loader import QwenVLDataLoader
    from mindformers_qwenvl.training.step import QwenVLTrainOneStepCell

    network = nn.Dense(1, 1)
    for call, what in (
        (lambda: QwenVLTokenizer(A56.vocab_file, image_slot=4), r"did you mean image_slots\?"),
        (lambda: QwenVLImageProcessor(imagesize=4), r"did you mean image_size\?"),
        (lambda: QwenVLContentTransformTemplate(sytem_message=""), r"did you mean system_message\?"),
        (lambda: QwenVLDataLoader("a.json", shufle=True), r"did you mean shuffle\?"),
        (
            lambda: QwenVLTrainOneStepCell(network, nn.SGD(network.trainable_params()), use_clip_grd=True),
            r"runner_wrapper .*use_clip_grd; did you mean use_clip_grad\?",
        ),
    ):
        with pytest.raises(UnknownNameError, match=what):
            call()
    assert ms.__name__ and QwenVLTokenizer(A56.vocab_file, max_length=32).eod_id == 800


def test_the_processor_uses_each_argument(folder):
    from mindformers_qwenvl import QwenVLImageProcessor, QwenVLProcessor, QwenVLTokenizer

    plain = QwenVLProcessor.from_pretrained(folder)
    text = "Hello, who are you?"
    made = QwenVLProcessor.from_pretrained(
        folder, system_message="Be brief.", chat_format="chatml", image_policy={"allow_private": True}
    )
    tokenizer = plain.tokenizer
    assert tokenizer.decode(made(text)["input_ids"][0]).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert (
        made.template.image_transform.policy.allow_private and made.image_processor.image_transform.policy.allow_private
    )
    assert tokenizer.decode(plain(text)["input_ids"][0]).startswith("<|im_start|>system\nYou are a helpful")
    assert tokenizer.decode(QwenVLProcessor.from_pretrained(folder, chat_format="raw")(text)["input_ids"][0]) == text
    with pytest.raises(ValueError, match="max_length allows 5"):
        QwenVLProcessor.from_pretrained(folder, max_length=5)(text)
    with pytest.raises(UnknownNameError, match="unknown key banana"):
        QwenVLProcessor.from_pretrained(folder, banana=1)
    with pytest.raises(UnknownNameError, match=r"did you mean image_slots\?"):
        QwenVLTokenizer.from_pretrained(folder, image_slot=4)

    made.save_pretrained(folder)  # preprocessor_config.json, with a section of its own
    again = QwenVLProcessor.from_pretrained(folder, chat_format="raw", max_length=4000, padding="max_length")
    assert np.shape(again(text)["input_ids"]) == (1, 4000) and again.template.layout["system_message"] == "Be brief."
    assert tokenizer.decode(again(text)["input_ids"][0], skip_special_tokens=True) == text
    small = QwenVLImageProcessor.from_pretrained(str(folder), image_size=28)
    assert small.image_transform.size == 28
    with pytest.raises(UnknownNameError, match=r"did you mean image_size\?"):
        QwenVLImageProcessor.from_pretrained(str(folder), imagesize=28)
    (folder / "preprocessor_config.json").unlink()
