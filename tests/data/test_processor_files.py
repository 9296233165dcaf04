"""Processors from YAML sections and directories, and saved ones."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest

from tests.support.golden import golden_set
from tests.support.pictures import assert_golden_pixels
from tests.support.queries import Q, arrays, golden_query

pytestmark = pytest.mark.usefixtures("registered")

VOCAB = str(golden_set("a56").vocab_file)
OLD = {
    "type": "QwenVLProcessor",
    "image_processor": {"type": "QwenVLImageProcessor", "image_size": 56},
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB, "max_length": 32},
    "max_length": 300,
    "num_queries": 16,
}
NEW = {
    "type": "QwenVLProcessor",
    "model_transform_template": {
        "type": "QwenVLContentTransformTemplate",
        "output_columns": ["input_ids", "images", "image_context_pos", "labels"],
        "mode": "predict",
        "image_size": 56,
        "num_queries": 16,
    },
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB},
    "max_length": 300,
}
SLOTS_AT_THE_TOKENIZER = {
    "type": "QwenVLProcessor",
    "image_processor": {"type": "QwenVLImageProcessor", "image_size": 56},
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB, "image_slots": 16},
    "max_length": 300,
}


@pytest.mark.parametrize("section", [OLD, NEW, SLOTS_AT_THE_TOKENIZER], ids=["old", "new", "slots"])
def test_build_processor(tokenizer, section, tmp_path):
    from mindformers.models.build_processor import build_processor
    from mindformers.tools.register import MindFormerConfig

    from mindformers_qwenvl.data.processor import QwenVLProcessor

    path = tmp_path / "predict.yaml"
    path.write_text(json.dumps({"processor": section}))  # JSON is YAML
    query, want = golden_query(tokenizer, "a56", "one_image")
    built = [
        build_processor(copy.deepcopy(section)),
        build_processor(MindFormerConfig(str(path)).processor),
        QwenVLProcessor.from_pretrained(str(path)),
    ]
    for processor in built:
        assert isinstance(processor, QwenVLProcessor) and processor.max_length == 300
        assert processor.output_columns == ["input_ids", "images", "image_context_pos"]
        input_ids, images, _ = arrays(processor(query))
        assert input_ids.tolist() == [want]
        assert_golden_pixels(images[0, 0], golden_set("a56"), 0)


def test_stock_processor_takes_the_template(tokenizer, tmp_path):
    from mindformers.models.multi_modal import BaseXModalToTextProcessor

    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate

    stock = BaseXModalToTextProcessor(QwenVLContentTransformTemplate(tokenizer=tokenizer, image_size=56), tokenizer)
    query, want = golden_query(tokenizer, "a56", "two_images")
    input_ids, images, _ = arrays(stock([query, [{"text": "hi"}]]))
    assert input_ids[0].tolist() == want and images.shape[1] == 2
    assert stock.post_process([input_ids[1]]) == ["hi"]
    assert stock.modal_pad_ids() == [tokenizer.img_pad_id, None, None]


@pytest.fixture(params=["yaml", "beside a model"])
def saved(request, make, tmp_path):
    """A folder that a processor was saved in and that was moved then, as (folder, whether it has a config.json)."""
    folder = tmp_path / "first"
    folder.mkdir()
    if request.param == "beside a model":
        shutil.copy(golden_set("a56").directory / "config.json", folder)
    make(max_length=300, chat_format="chatml", system_message="Be brief.", padding="max_length").save_pretrained(
        str(folder)
    )
    return folder.rename(tmp_path / "moved"), request.param


def test_round_trip(saved, make):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    folder, kind = saved
    assert bool(list(folder.glob("*.yaml"))) == (kind == "yaml")  # a YAML would hide the config.json from AutoModel
    want = make(max_length=300, chat_format="chatml", system_message="Be brief.", padding="max_length")("hi")
    again = QwenVLProcessor.from_pretrained(str(folder))
    assert (again.max_length, again.padding, again.tokenizer.image_slots) == (300, "max_length", Q)
    np.testing.assert_array_equal(again("hi")["input_ids"], want["input_ids"])
    assert again("hi")["images"].shape == want["images"].shape
    again.save_pretrained(str(folder))
    twice = QwenVLProcessor.from_pretrained(str(folder))
    assert (
        twice.template.config == again.template.config and twice.image_processor.config == again.image_processor.config
    )


def test_auto_processor(make, tmp_path):
    from mindformers import AutoProcessor

    from mindformers_qwenvl.data.processor import QwenVLProcessor

    make(max_length=300).save_pretrained(str(tmp_path / "saved"))
    processor = AutoProcessor.from_pretrained(str(tmp_path / "saved"))
    assert isinstance(processor, QwenVLProcessor)
    np.testing.assert_array_equal(processor("hi")["input_ids"], make()("hi")["input_ids"])


@pytest.mark.parametrize("chat_format", ["chatml", "raw", None])
def test_original_directory(checkpoint_dir, tokenizer, tmp_path, chat_format):
    """The frame is what generation_config.json says, as published for the chat model and for the base model."""
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    folder = shutil.copytree(checkpoint_dir("a56"), tmp_path / "original")
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": chat_format} if chat_format else {}))
    processor = QwenVLProcessor.from_pretrained(str(folder))
    query, want = golden_query(tokenizer, "a56", "one_image")
    if chat_format == "chatml":
        query = [{"image": str(golden_set("a56").image(0))}, {"text": "What is it?"}]
    input_ids, images, _ = arrays(processor(query))
    assert input_ids.tolist() == [want] and images.shape == (1, 1, 3, 56, 56)


def test_nothing_to_read_is_named(tmp_path):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    with pytest.raises(FileNotFoundError, match="no YAML with a section `processor`"):
        QwenVLProcessor.from_pretrained(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no\.yaml"):
        QwenVLProcessor.from_pretrained(str(tmp_path / "no.yaml"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"padding": "max_length"}, "padding"),
        ({"padding": "left"}, "padding"),
        ({"model_transform_template": {"type": "Other"}}, "'Other'"),
        ({"model_transform_template": {"image_size": 28}}, "they must agree"),
        ({"model_transform_template": 5}, "model_transform_template"),
        ({"chat_format": "llama"}, "chat_format"),
    ],
)
def test_bad_arguments_are_named(make, settings, reason):
    with pytest.raises(ValueError, match=reason):
        make(**settings)


def test_saved_json_names_no_path_of_this_machine(make, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    make().save_pretrained(str(tmp_path))
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["image_size"] == 56 and str(golden_set("a56").directory) not in json.dumps(content)
